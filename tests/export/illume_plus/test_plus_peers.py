"""The comparison with peers: every side is asked the same, and what it answers is counted as it should be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers import results as results_module
from benchmarks.peers.__main__ import main, task_of
from benchmarks.peers.environments import OURS, called
from benchmarks.peers.results import (
    PeerResults,
    SideResult,
    results_from_file,
    text_of_results,
    tokens_of_rounds,
    write_results,
)
from benchmarks.peers.shapes import SHAPES, checkpoint_from_folder, num_weights, write_checkpoint
from benchmarks.peers.task import Task, chosen_by, num_opening, task_from_file, write_task
from illume_export.families.illume_plus import folders_in, plus_from_folders
from illume_export.models.language_model import LanguageModel
from illume_runtime.bundle import Bundle
from illume_runtime.machine import Machine

TASK = Task((1,), ((0, 9),), ((0, 9),), (1, 1))


class Plain:
    """A peer without a cache: the whole sequence anew for every token."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.num_calls = 0

    def reset(self) -> None:
        self.ids: list[int] = []

    def append(self, ids: Sequence[int]) -> np.ndarray:
        self.num_calls += 1
        self.ids += ids
        with torch.no_grad():
            hidden = self.model(self.model.embed(torch.tensor([self.ids])))[0, -1]
            logits: np.ndarray = self.model.logits(hidden, 0, self.model.config.vocab_size).numpy()
        return logits


def test_a_peer_and_the_runtime_choose_the_same_ids(
    published_folder: Path, published_bundle: Path, tmp_path: Path
) -> None:
    task = task_of(Bundle.open(published_bundle, verify=False), 12, (2, 3))
    write_task(task, tmp_path / "task.json")
    assert task_from_file(tmp_path / "task.json") == task
    found = called(OURS, "run", published_bundle, tmp_path / "task.json", 1)
    peer = Plain(plus_from_folders(folders_in(published_folder)).mllm.language_model)
    text, picture = (chosen_by(peer, task.prompt, places) for places in (task.text, task.picture))
    assert found["text"]["ids"] == text.ids
    assert found["picture"]["ids"] == picture.ids
    assert len(text.ids) == 12
    assert len(set(picture.ids)) > 20
    assert peer.num_calls == 12 + len(picture.ids)
    assert len(found["picture"]["steps_s"]) == 2 * 9 + 3 * 16 - 1  # forced tokens are no steps of ours
    assert len(picture.steps_s) == len(picture.ids) - 1
    assert found["text"]["peak_bytes"] <= found["picture"]["peak_bytes"]


def test_the_places_of_a_picture_are_those_of_its_schedule(published_bundle: Path) -> None:
    bundle = Bundle.open(published_bundle, verify=False)
    places = task_of(bundle, 1, (9, 16)).picture
    names = ("start_of_image", "start_of_level0")
    assert [start for start, _ in places[:2]] == [bundle.vocabulary.control(name) for name in names]
    assert num_opening(places) == 2
    assert sum(end - start > 1 for start, end in places) == 9 * 9 + 16 * 16


def test_the_checkpoint_of_a_shape_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    config = SHAPES["tiny"]
    write_checkpoint(config, tmp_path / "tiny")
    made = checkpoint_from_folder(config, tmp_path / "tiny")
    stages = {stage.name: stage for stage in made.stages}
    weights = sum(p.numel() for p in stages["decoder"].module.parameters())
    assert weights + config.language_model.vocab_size * config.language_model.hidden_size == num_weights(
        config.language_model
    )
    assert {"head_text", "head_level0", "head_level1"} <= set(stages)
    assert not made.compared


def round_of(ids: list[int], step_s: float) -> dict[str, object]:
    return {
        "ids": ids,
        "first_s": 0.5,
        "steps_s": [step_s] * (len(ids) - 1),
        "cpu_s": [step_s / 2] * (len(ids) - 1),
        "margins": [0.5] * len(ids),
        "peak_bytes": int(step_s * 1e9),
    }


def test_times_are_medians_over_rounds_and_ids_are_equal_up_to_the_first_other_one() -> None:
    tokens = tokens_of_rounds([round_of([1, 2, 3, 4], s) for s in (0.1, 0.3, 0.2)], [1, 2, 9, 4])
    assert (tokens.ms_per_token, tokens.cpu_ms_per_token) == (200.0, 100.0)
    assert tokens.ms_per_token_of_rounds == (100.0, 300.0, 200.0)
    assert (tokens.num_tokens, tokens.num_equal, tokens.peak_bytes) == (4, 2, 300_000_000)
    with pytest.raises(ValueError, match="two rounds of one side chose different ids"):
        tokens_of_rounds([round_of([1, 2], 0.1), round_of([1, 3], 0.1)], [1, 2])


def test_results_are_read_back_and_shown_with_their_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_module, "FOLDER", tmp_path)
    ours, peer = (tokens_of_rounds([round_of([1, 2, 3], s)], [1, 2, 3]) for s in (0.1, 0.15))
    side = SideResult(OURS, {"illume-rt": "0.1.0"}, 3.0, 2.0, 1, ours, ours)
    results = PeerResults(
        machine=Machine("Linux x86_64", "Some CPU", 2, 1 << 34),
        date="2026-01-31",
        commit="abc1234",
        shape="tiny",
        num_weights=10**6,
        threads=1,
        rounds=1,
        num_prompt=32,
        sides=(side, replace(side, name="other", text=peer, picture=peer)),
        left_out={"third": "not installed"},
    )
    assert results_from_file(write_results(results)) == results
    shown = text_of_results(results)
    assert "text: 1.50 times the best peer's speed (other; 1.50 in CPU time), goal 1.0" in shown
    assert "third is left out: not installed" in shown


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    write_task(TASK, tmp_path / "task.json")
    with pytest.raises(RuntimeError, match=r"illume: run ended with 1\n(.|\n)*no such folder"):
        called(OURS, "run", tmp_path / "missing", tmp_path / "task.json", 1)


def test_an_unknown_side_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sides", "nobody"])
    assert "there is no side nobody" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_exports_and_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--shape", "tiny", "--sides", OURS, "--rounds", "2", "--tokens", "8", "--rows", "1", "1"]
    results = main([*words, "--build", str(tmp_path)])
    assert [side.name for side in results.sides] == [OURS]
    assert results.sides[0].picture.num_tokens == 9 + 1 + 1 + 1 + 16
    assert json.loads((tmp_path / "shapes" / "tiny" / "illume.json").read_text())["seconds"] > 0
    assert "wrote" not in capsys.readouterr().out

"""`illume eval` with a pipeline that knows the truth, and with one that is wrong in known cases."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from oracle_pipeline import OraclePipeline
from PIL import Image

import illume_runtime.pipeline as pipeline_module
from illume_runtime.cli.main import main
from illume_training.evaluation.description import Description, description_from_text
from illume_training.evaluation.figures import TARGETS
from illume_training.world import Scene
from illume_training.world.palette import COLORS
from illume_training.world.scene import with_objects


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Runs `illume eval` on an oracle: exit code, JSON (or text), standard error, and the oracle."""

    def run(*words, **spoils):
        with monkeypatch.context() as patch:
            oracle = OraclePipeline(patch, **spoils)
            patch.setattr(pipeline_module.Pipeline, "load", staticmethod(lambda *args, **kwargs: oracle))
            code = main(["eval", "oracle.bundle", *map(str, words)])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if "--json" in words else captured.out, captured.err, oracle

    return run


def shares(result) -> dict[tuple[str, str, str], tuple[int, int]]:
    return {(f["task"], f["split"], f["aspect"]): (f["right"], f["cases"]) for f in result["figures"]}


def without_objects(scene: Scene, number: int) -> Scene:
    return Scene((), scene.background, scene.style) if number % 4 == 0 else scene


def recolored(scene: Scene, number: int) -> Scene:
    """Every object in a colour that the scene does not have."""
    there = {o.color for o in scene.objects}
    new = next(color for color in COLORS if color not in there)
    return with_objects(scene, [replace(o, color=new) for o in scene.objects])


def test_the_truth_scores_everything_and_meets_all_targets(evaluate) -> None:
    code, result, err, _ = evaluate("--limit", 48, "--held-out", 24, "--require-targets", "--json")
    assert (code, err) == (0, "")
    figures = shares(result)
    assert [aspect for aspect, (right, cases) in figures.items() if right != cases] == []
    for task in ("questions", "draw", "edit", "reconstruct"):
        assert figures[task, "test", "all"] == (48, 48)
        assert figures[task, "held_out", "all"] == (24, 24)
    assert {f["aspect"] for f in result["figures"] if f["task"] == "edit"} == {
        "all", "remove", "recolor", "background", "add", "complete", "style",
    }  # fmt: skip
    aims = {(f["task"], f["aspect"]): f["target"] for f in result["figures"] if f["target"] is not None}
    assert aims == TARGETS
    assert result["targets_met"] is True


def test_known_rates_of_wrong_pictures_are_found(evaluate) -> None:
    words = ("--tasks", "draw,edit,reconstruct", "--limit", 24, "--held-out", 0, "--json")
    _, result, _, _ = evaluate(*words, spoil_scene=without_objects)
    figures = shares(result)
    for task in ("draw", "edit", "reconstruct"):
        assert figures[task, "test", "all"] == (18, 24)
    assert figures["draw", "test", "object"] == (18, 24)
    assert result["targets_met"] is False


def test_a_wrong_colour_costs_the_colour_and_nothing_else(evaluate) -> None:
    words = ("--tasks", "draw", "--limit", 24, "--held-out", 0, "--json")
    _, result, _, _ = evaluate(*words, spoil_scene=recolored)
    figures = shares(result)
    assert figures["draw", "test", "color"][0] == 0
    assert figures["draw", "test", "object"] == (24, 24)
    right, cases = figures["draw", "test", "count"]
    assert right == cases > 0
    assert figures["draw", "test", "all"] == (24 - figures["draw", "test", "color"][1], 24)


def test_known_rates_of_wrong_answers_are_found(evaluate) -> None:
    words = ("--tasks", "questions", "--limit", 60, "--held-out", 0, "--json")
    code, result, _, _ = evaluate(*words, spoil_answer=lambda text, number: text if number % 3 else text + " or so")
    assert code == 0
    assert shares(result)["questions", "test", "all"] == (40, 60)


def test_an_answer_may_have_space_around_it(evaluate) -> None:
    words = ("--tasks", "questions", "--limit", 10, "--held-out", 0, "--json")
    _, result, _, _ = evaluate(*words, spoil_answer=lambda text, number: f" {text}\n")
    assert shares(result)["questions", "test", "all"] == (10, 10)


def test_a_missed_target_is_one_line_and_exit_code_6(evaluate) -> None:
    words = ("--tasks", "edit", "--limit", 12, "--held-out", 0, "--require-targets")
    code, out, err, _ = evaluate(*words, spoil_scene=lambda scene, number: without_objects(scene, 0))
    assert code == 6
    assert err == "illume eval: error: below the target: edit: all right 0.0% of 12, expected 80%\n"
    assert "MISSED" in out


def test_a_missed_target_that_is_not_required_is_no_error(evaluate) -> None:
    words = ("--tasks", "edit", "--limit", 6, "--held-out", 0)
    code, out, err, _ = evaluate(*words, spoil_scene=lambda scene, number: without_objects(scene, 0))
    assert (code, err) == (0, "")
    assert "MISSED" in out


def test_batches_are_as_asked_and_have_seeds_of_their_own(evaluate) -> None:
    words = ("--tasks", "draw", "--limit", 10, "--held-out", 3, "--batch", 4, "--seed", 7, "--json")
    _, result, _, oracle = evaluate(*words)
    assert oracle.batches == [("draw", 4, 7), ("draw", 4, 11), ("draw", 2, 15), ("draw", 3, 7)]
    assert (result["batch"], result["seed"], result["held_out"]) == (4, 7, 3)


def test_more_cases_go_on_from_fewer_whatever_the_batch(evaluate) -> None:
    prompts = []
    for limit, batch in ((6, 2), (12, 5)):
        asked: list[str] = []
        evaluate(
            "--tasks", "questions", "--limit", limit, "--held-out", 0, "--batch", batch,
            spoil_answer=lambda text, number, asked=asked: asked.append(text) or text,
        )  # fmt: skip
        prompts.append(asked)
    assert prompts[0] == prompts[1][:6]


def test_validation_has_no_held_out_combinations_unless_asked(evaluate) -> None:
    _, result, _, _ = evaluate("--tasks", "questions", "--split", "validation", "--limit", 5, "--json")
    assert {f["split"] for f in result["figures"]} == {"validation"}
    _, result, _, _ = evaluate("--tasks", "questions", "--limit", 5, "--json")
    assert {f["split"] for f in result["figures"]} == {"test", "held_out"}


def test_the_sheet_shows_failures_alone(evaluate, tmp_path) -> None:
    for name, spoil in (("none", lambda scene, number: scene), ("some", without_objects)):
        words = ("--limit", 8, "--held-out", 0, "--failures", tmp_path / f"{name}.png")
        code, _, err, _ = evaluate(*words, spoil_scene=spoil)
        assert code == 0
        assert err == f"wrote {tmp_path / name}.png\n"
    with Image.open(tmp_path / "none.png") as none, Image.open(tmp_path / "some.png") as some:
        assert none.width == some.width
        assert some.height > none.height + 3 * 300  # three tasks with a row of failures each


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "draw,paint"], "there is no task 'paint'; choose from questions,draw,edit,reconstruct"),
        (["--limit", "0"], "expected a whole number from 1 to 1000000, got 0"),
        (["--batch", "65"], "expected a whole number from 1 to 64, got 65"),
        (["--failures", "sheet.jpg"], "'sheet.jpg' does not end in .png"),
        (["--split", "train"], "invalid choice: 'train'"),
    ],
)
def test_wrong_options_are_refused(evaluate, words, message) -> None:
    code, out, err, oracle = evaluate(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert oracle.batches == []


def test_a_description_is_read_in_any_order() -> None:
    first = "a small red star and a large blue cross on a sky to white from top to bottom background, outline"
    second = "a large blue cross and a small red star on a sky to white from top to bottom background, outline"
    expected = Description(
        (("large", "blue", "cross"), ("small", "red", "star")), "sky to white from top to bottom", "outline"
    )
    assert description_from_text(first) == description_from_text(second) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a red star", "a small red star", "a small red star on white", "a small red sun on a white background",
     "a small red star, on a white background", "two small red stars on a white background"],
)  # fmt: skip
def test_what_is_no_description_is_none(text: str) -> None:
    assert description_from_text(text) is None

"""`illume enhance generate`: what it writes, kills at any point, other folders, bad prompts, a full disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from generation_of_tests import PROMPTS, contents, generation, write_prompts

from illume_runtime.enhance import generating
from illume_runtime.enhance.corpus import Corpus, open_corpus
from illume_runtime.pipeline import ImageSampling, Pipeline


def test_a_corpus_holds_pictures_and_the_ids_that_draw_them(corpus, bundle):
    opened = open_corpus(corpus)
    samples = list(opened.samples())
    assert [sample.prompt for sample, _ in samples] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert [sample.id for sample, _ in samples][:3] == ["000001-0", "000001-1", "000002-0"]
    assert len({sample.tokens for sample, _ in samples}) == len(samples)
    assert all(path.is_file() for _, path in samples)
    sample, _ = samples[1]
    with Pipeline.load(bundle, threads=1) as pipeline:
        pictures = pipeline.draw_many([PROMPTS[0], PROMPTS[0], PROMPTS[1]], sampling=ImageSampling(seed=sample.seed))
        schedule = pipeline._model.schedule
    assert schedule.tokens_of(pictures[sample.request].codes).tolist() == list(sample.tokens)


def test_the_same_seed_gives_the_same_files_and_another_one_others(corpus, bundle, prompts, tmp_path, illume):
    assert illume(*generation(bundle, prompts, tmp_path / "again"))[0] == 0
    assert contents(tmp_path / "again") == contents(corpus)
    assert illume(*generation(bundle, prompts, tmp_path / "other", "--seed", 1))[0] == 0
    mine, other = (list(open_corpus(path).samples()) for path in (corpus, tmp_path / "other"))
    assert all(a.tokens != b.tokens for (a, _), (b, _) in zip(mine, other, strict=True))


class Killed(BaseException):
    """What no `except Exception` stops."""


def test_a_corpus_killed_at_every_write_ends_as_an_uninterrupted_one(
    corpus, bundle, prompts, tmp_path, monkeypatch, illume
):
    original, left = Corpus.write_batch, [0]

    def mortal(self, number, files):
        if left[0] == 0:
            left[0] = 1
            (self.path / "batches" / ".000000.0badcafe").mkdir()  # as a kill leaves it
            (self.path / "batches" / ".000000.0badcafe" / "samples.jsonl").write_text("{")
            raise Killed
        left[0] -= 1
        original(self, number, files)

    monkeypatch.setattr(Corpus, "write_batch", mortal)
    num_kills = 0
    while True:
        try:
            code, out, _ = illume(*generation(bundle, prompts, tmp_path / "c", "--json"))
        except Killed:
            num_kills += 1
            continue
        break
    assert (code, num_kills) == (0, 3)
    assert json.loads(out)["drawn"] < 8
    assert contents(tmp_path / "c") == contents(corpus)


def test_a_process_killed_in_the_middle_loses_and_doubles_nothing(corpus, bundle, prompts, tmp_path, illume):
    folder = tmp_path / "c"
    command = [sys.executable, "-m", "illume_runtime", *generation(bundle, prompts, folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (folder / "batches").is_dir() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert illume(*generation(bundle, prompts, folder))[0] == 0
    assert contents(folder) == contents(corpus)


def test_a_finished_corpus_loads_no_model(corpus, bundle, prompts, monkeypatch, illume):
    monkeypatch.setattr(Pipeline, "load", None)
    code, out, _ = illume(*generation(bundle, prompts, corpus, "--json"))
    result = json.loads(out)
    assert (code, result["samples"], result["drawn"], result["skipped"]) == (0, 8, 0, [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "3"], "seed was 0, now it is 3"),
        (["--steps", "1"], "sampling was {}, now it is {'steps': 1}"),
        (["--double-sampling"], "sampling was {}, now it is {'double_sampling': True}"),
        (["--batch", "4"], "batch was 3, now it is 4"),
    ],
)
def test_a_corpus_begun_with_something_else_is_refused(corpus, bundle, prompts, illume, words, message):
    code, _, err = illume(*generation(bundle, prompts, corpus, *words))
    assert code == 2
    assert f"was begun with something else: {message}; choose another folder" in err


def test_a_corpus_says_what_was_asked_for(bundle, tmp_path, illume):
    prompts = write_prompts(tmp_path / "p.jsonl", PROMPTS[:1])
    words = ("--double-sampling", "--steps", 1, "--temperature", 0.5, "--quality", "best")
    assert illume(*generation(bundle, prompts, tmp_path / "c", *words))[0] == 0
    expected = {"double_sampling": True, "steps": 1, "temperature": 0.5, "quality": "best"}
    assert open_corpus(tmp_path / "c").facts.sampling == expected


def test_the_corpus_of_another_bundle_is_refused(corpus, changed_bundle, prompts, illume):
    before = contents(corpus)
    code, _, err = illume(*generation(changed_bundle({"name": "another"}), prompts, corpus))
    assert code == 2
    assert "bundle was illume-small, now it is another" in err or "was drawn by another bundle" in err
    assert contents(corpus) == before


def test_a_folder_of_other_files_and_one_at_work_are_refused(bundle, prompts, tmp_path, illume):
    code, _, err = illume(*generation(bundle, prompts, tmp_path))
    assert (code, "is a folder with other files; choose an empty or a new one" in err) == (2, True)
    import fcntl

    (tmp_path / "c").mkdir()
    handle = os.open(tmp_path / "c", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    code, _, err = illume(*generation(bundle, prompts, tmp_path / "c"))
    os.close(handle)
    assert (code, "another process writes this corpus" in err) == (2, True)


BAD_LINES = [
    ('{"prompt": "a moon"', "line 2: Expecting ',' delimiter"),
    ('["a moon"]', 'line 2: : got ["a moon"], expected an object'),
    ('{"prompt": 3}', "line 2: prompt: got 3, expected a string"),
    ('{"text": "a moon"}', "line 2: text: unknown key; the keys here are prompt"),
    ('{"prompt": " "}', "line 2: the prompt is empty"),
    (json.dumps({"prompt": "x" * 150}), "line 2: the prompt has"),
    (b'{"prompt": "\xff"}', "line 2: no UTF-8 at byte 12"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[message.split(":")[1][:20] for _, message in BAD_LINES])
def test_a_bad_line_stops_or_is_skipped_as_asked(bundle, tmp_path, illume, line, message):
    file = tmp_path / "p.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    file.write_bytes(b'{"prompt": "a star"}\n' + line + b'\n\n{"prompt": "a cross"}\n')
    code, _, err = illume(*generation(bundle, file, tmp_path / "c"))
    assert code == 2
    assert message in err
    assert not (tmp_path / "c").exists()
    code, out, err = illume(*generation(bundle, file, tmp_path / "c", "--on-error", "skip"))
    assert code == 0
    assert f"skipped: {file}, line 2" in err
    assert "1 lines skipped" in out
    assert {sample.id for sample, _ in open_corpus(tmp_path / "c").samples()} == {
        "000001-0", "000001-1", "000004-0", "000004-1",
    }  # fmt: skip


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("\n\n", "has no prompt")])
def test_a_file_without_prompts_is_refused(bundle, tmp_path, illume, content, message):
    file = tmp_path / "p.jsonl"
    if content is not None:
        file.write_text(content)
    code, _, err = illume(*generation(bundle, file, tmp_path / "c"))
    assert (code, message in err) == (2, True)


def test_a_full_disk_leaves_whole_batches_and_is_gone_on_from(corpus, bundle, prompts, tmp_path, monkeypatch, illume):
    original, room = type(tmp_path).write_bytes, [6]

    def write_bytes(self, content):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return original(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "write_bytes", write_bytes)
        code, _, err = illume(*generation(bundle, prompts, tmp_path / "c"))
    assert code == 3
    assert "No space left on device" in err
    assert [path.name for path in (tmp_path / "c" / "batches").iterdir()] == ["000000"]
    assert illume(*generation(bundle, prompts, tmp_path / "c"))[0] == 0
    assert contents(tmp_path / "c") == contents(corpus)


def test_an_unknown_schema_version_and_no_corpus_are_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"has no corpus.json; expected a folder"):
        open_corpus(tmp_path)
    data = json.loads((corpus / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps({**data, "schema_version": 9}))
    with pytest.raises(ValueError, match="schema_version 9 is unknown, expected 1"):
        open_corpus(tmp_path)


def test_an_unfinished_corpus_has_no_samples_to_give(corpus, tmp_path):
    (tmp_path / "corpus.json").write_bytes((corpus / "corpus.json").read_bytes())
    with pytest.raises(ValueError, match="3 of 3 batches are missing"):
        list(open_corpus(tmp_path).samples())


def test_a_batch_has_the_seed_of_its_number_alone(corpus):
    facts = open_corpus(corpus).facts
    from illume_runtime.enhance.prompt_file import PromptLine

    lines = [PromptLine(i + 1, prompt) for i, prompt in enumerate(PROMPTS)]
    seeds = [batch.seed for batch in generating.batches_of(facts, lines)]
    assert len(set(seeds)) == 3
    assert seeds[:1] == [batch.seed for batch in generating.batches_of(facts, lines[:1])]

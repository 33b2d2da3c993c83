"""`illume enhance build` and the lessons made of its dialogues."""

import json
import re

import numpy as np
import pytest

from illume_runtime.enhance.assessment import (
    CORRECTION,
    QUESTION,
    assessment,
    said_in_text,
    write_assessments,
)
from illume_runtime.enhance.corpus import open_corpus
from illume_training.corpus_lessons import assess_lesson, dialogue_corpus
from illume_training.dialogue import IMAGE, NO_LOSS, TEXT, Writer
from illume_training.enhancement.dialogues import Dialogue, dialogues_from_folder
from illume_training.lessons import Mixture, make_lessons


@pytest.fixture
def built(corpus, tmp_path, illume):
    """Dialogues and samples; of every two samples the first is good, but for the last prompt."""
    samples = [sample for sample, _ in open_corpus(corpus).samples()]
    judged = [
        assessment(one.id, one.prompt, "checker", {"object": (float(good), "moon")}, float(good), "all is there")
        for one, good in zip(samples, [1, 0, 1, 0, 1, 0, 0, 0], strict=True)
    ]
    write_assessments(tmp_path / "a.jsonl", judged)
    words = ["enhance", "build", corpus, "--assessments", tmp_path / "a.jsonl", "-o", tmp_path / "d", "--json"]
    code, out, err = illume(*words)
    assert code == 0, err
    return tmp_path / "d", samples, json.loads(out)


def test_good_pictures_are_assessed_and_bad_ones_corrected(built):
    folder, samples, result = built
    assert (result["assess"], result["correct"], result["left_out"]) == (3, 5, 0)
    found = dialogues_from_folder(folder)
    assert [one.kind for one in found] == ["assess", "correct"] * 3 + ["correct"] * 2
    assert [one.tokens for one in found] == [sample.tokens for sample in samples]
    assert found[1].corrected_tokens == samples[0].tokens  # the good picture of the same prompt
    assert found[0].answer == "object moon: yes. picture yes: all is there"
    assert [one.corrected_picture for one in found[6:]] == ["000004-0.png", "000004-1.png"]  # none was good
    assert {path.name for path in folder.iterdir()} == {"dialogues.jsonl", "000004-0.png", "000004-1.png"}


def test_the_same_seed_builds_the_same_files(built, corpus, tmp_path, illume):
    words = ["enhance", "build", corpus, "--assessments", tmp_path / "a.jsonl", "-o", tmp_path / "again"]
    assert illume(*words)[0] == 0
    first, again = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (built[0], tmp_path / "again"))
    assert first == again
    code, _, err = illume(*words)
    assert (code, "exists already" in err) == (2, True)


def test_a_bad_picture_without_a_correction_is_left_out(corpus, tmp_path, illume):
    samples = [sample for sample, _ in open_corpus(corpus).samples()]
    path = tmp_path / "c"
    import shutil

    shutil.copytree(corpus, path)
    file = path / "batches" / "000000" / "samples.jsonl"
    file.write_text(file.read_text().replace(samples[0].prompt, "a lighthouse"))
    write_assessments(tmp_path / "a.jsonl", [assessment(samples[0].id, "a lighthouse", "model", {}, 0.0, "wrong")])
    words = ["enhance", "build", path, "--assessments", tmp_path / "a.jsonl", "-o", tmp_path / "d", "--json"]
    assert json.loads(illume(*words)[1])["left_out"] == 1


def test_pictures_are_assessed_against_altered_prompts_too(corpus, tmp_path, illume):
    samples = {sample.id: sample for sample, _ in open_corpus(corpus).samples()}
    judged = [assessment(one.id, one.prompt, "checker", {}, 1.0, "all is there") for one in samples.values()]
    write_assessments(tmp_path / "a.jsonl", judged)
    words = ["enhance", "build", corpus, "--assessments", tmp_path / "a.jsonl", "--altered", 2, "--json"]
    code, out, err = illume(*words, "-o", tmp_path / "d")
    assert code == 0, err
    found = [one for one in dialogues_from_folder(tmp_path / "d") if "~" in one.id]
    assert json.loads(out)["altered"] == len(found) > len(samples)
    for one in found:
        own = samples[one.id.partition("~")[0]]
        assert (one.kind, one.tokens, one.prompt != own.prompt) == ("assess", own.tokens, True)
        assert said_in_text(one.answer) is not None
    code, _, err = illume(*words[:-2], -1, "-o", tmp_path / "e")
    assert (code, "--altered: expected 0 or more, got -1" in err) == (2, True)


def test_assessments_of_another_corpus_are_refused(corpus, tmp_path, illume):
    write_assessments(tmp_path / "a.jsonl", [assessment("000001-0", "another prompt", "checker", {}, 0.0, "a")])
    code, _, err = illume("enhance", "build", corpus, "--assessments", tmp_path / "a.jsonl", "-o", tmp_path / "d")
    assert (code, "assessment 000001-0 ('another prompt') is of no sample of this corpus" in err) == (2, True)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 7}, "line 1: schema_version 7 is unknown, expected 1; build it again"),
        (
            {"kind": "assess", "corrected_picture": "a.png"},
            "line 1: kind: got 'assess'; exactly a dialogue of the kind",
        ),
        ({"tokens": "x"}, 'line 1: tokens: got "x", expected a list'),
    ],
)
def test_what_is_no_dialogue_names_its_line(tmp_path, change, message):
    data = {"schema_version": 1, "kind": "assess", "id": "1", "prompt": "p", "tokens": [1], "answer": "yes: a"}
    (tmp_path / "dialogues.jsonl").write_text(json.dumps({**data, **change}) + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        dialogues_from_folder(tmp_path)
    with pytest.raises(ValueError, match=r"has no dialogues.jsonl"):
        dialogues_from_folder(tmp_path / "none")


@pytest.fixture
def writer(tokenizer):
    from small_model import small_config

    return Writer(small_config(), tokenizer)


def test_a_lesson_teaches_the_answer_and_the_correction_and_not_the_bad_picture(built, writer):
    corpus = dialogue_corpus(built[0], writer)
    dialogue = corpus.correct[0]
    sequence = assess_lesson(writer, dialogue, None, np.zeros((0, 3, 3), np.int64))
    c, ids, losses = writer.config.controls, np.array(sequence.ids), np.array(sequence.losses)
    first, second = np.flatnonzero(ids == c.start_of_image).tolist()
    question = len(writer.text(QUESTION))
    assert (losses[: first + len(dialogue.tokens) + 1 + question] == NO_LOSS).all()
    answer = writer.text(dialogue.answer)
    assert ids[losses == TEXT].tolist() == [*answer, c.end, c.start_of_image]
    assert (losses == IMAGE).sum() == 9
    start, end = writer.config.level0_segment
    corrected = [token for token in dialogue.corrected_tokens if start <= token < end]
    assert ids[losses == IMAGE].tolist() == corrected
    assert second > first
    between = ids[second - len(writer.text(CORRECTION)) - 1 : second - 1].tolist()
    assert between == writer.text(CORRECTION)


def test_a_corpus_adds_its_lessons_and_changes_no_other(built, writer):
    import torch

    codes = np.arange(9).reshape(1, 3, 3)

    def encode(pictures):
        return torch.zeros(len(pictures), 9, 24), np.repeat(codes, len(pictures), 0)

    corpus = dialogue_corpus(built[0], writer)
    plain = make_lessons("s", Mixture(2, 1, 1, 1), writer, encode)
    assert [group.ids.shape[0] for group in plain.groups] == [2, 1, 1, 1]
    mixed = make_lessons("s", Mixture(2, 1, 1, 1, assess=2, correct=3), writer, encode, corpus)
    assert [group.ids.shape[0] for group in mixed.groups] == [2, 1, 1, 1, 2, 3]
    for before, after in zip(plain.groups, mixed.groups, strict=False):
        assert (before.ids == after.ids).all()
        assert (before.cells == after.cells).all()
    again = make_lessons("s", Mixture(2, 1, 1, 1, assess=2, correct=3), writer, encode, corpus)
    assert all((a.ids == b.ids).all() for a, b in zip(mixed.groups, again.groups, strict=True))


def test_ids_of_another_model_are_refused(tmp_path, writer):
    one = Dialogue(1, "assess", "1-0", "p", (520, 521), "yes: a")
    from illume_runtime.typed_json import json_from_value

    (tmp_path / "dialogues.jsonl").write_text(json.dumps(json_from_value(one)) + "\n")
    with pytest.raises(ValueError, match=r"dialogue 1-0: its ids hold 2 codes, expected 9; the corpus was drawn by"):
        dialogue_corpus(tmp_path, writer)

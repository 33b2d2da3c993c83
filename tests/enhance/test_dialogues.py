"""`illume enhance build` and the lessons made of its dialogues."""

import json
import re

import numpy as np
import pytest

from illume_runtime.enhance.assessment import AnsweredCheck, assessment, write_assessments
from illume_runtime.enhance.checklist import checklist_from_text, checklist_request
from illume_runtime.enhance.corpus import open_corpus
from illume_runtime.typed_json import json_from_value
from illume_training.corpus_lessons import CORRECTION, assess_lesson, checklist_lesson, correct_lesson, dialogue_corpus
from illume_training.dialogue import AGAINST, LAYOUT, SHOWN, TEXT, Writer
from illume_training.enhancement.dialogues import Dialogue, Turn, dialogues_from_folder
from illume_training.lessons import Mixture, make_lessons


def judged(sample, good, judge="checker", prompt=None):
    """A scripted assessment: one question has no plain answer."""
    checks = [
        AnsweredCheck("object", "how many moons are there?", "one", "one", 1.0, (4,)),
        AnsweredCheck("color", "is there a red moon?", "yes", "yes" if good else "no", float(good), (4,), (7,)),
        AnsweredCheck("color", "what is the background?", "mint", None, None),
    ]
    dimensions = {"object": (float(good), "moon")}
    return assessment(sample.id, prompt or sample.prompt, judge, dimensions, float(good), "all is there", checks)


@pytest.fixture
def built(corpus, tmp_path, illume):
    """Dialogues and samples; of every two samples the first is good, but for the last prompt."""
    samples = [sample for sample, _ in open_corpus(corpus).samples()]
    found = [judged(one, good) for one, good in zip(samples, [1, 0, 1, 0, 1, 0, 0, 0], strict=True)]
    write_assessments(tmp_path / "a.jsonl", found)
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
    wanted = "object: how many moons are there? one. color: is there a red moon? yes, what is the background? mint"
    assert {one.checklist for one in found} == {wanted}
    sure = Turn("how many moons are there?", "one", (4,))
    assert found[0].turns == (sure, Turn("is there a red moon?", "yes", (4,), (7,)))
    assert found[1].turns == (sure, Turn("is there a red moon?", "no", (4,), (7,)))
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
    write_assessments(tmp_path / "a.jsonl", [judged(samples[0], 0, "model", "a lighthouse")])
    words = ["enhance", "build", path, "--assessments", tmp_path / "a.jsonl", "-o", tmp_path / "d", "--json"]
    assert json.loads(illume(*words)[1])["left_out"] == 1


def test_pictures_are_assessed_against_altered_prompts_too(corpus, tmp_path, illume):
    samples = {sample.id: sample for sample, _ in open_corpus(corpus).samples()}
    write_assessments(tmp_path / "a.jsonl", [judged(one, 1) for one in samples.values()])
    words = ["enhance", "build", corpus, "--assessments", tmp_path / "a.jsonl", "--altered", 2, "--json"]
    code, out, err = illume(*words, "-o", tmp_path / "d")
    assert code == 0, err
    found = [one for one in dialogues_from_folder(tmp_path / "d") if "~" in one.id]
    assert json.loads(out)["altered"] == len(found) > len(samples)
    for one in found:
        own = samples[one.id.partition("~")[0]]
        assert (one.kind, one.tokens, one.prompt != own.prompt) == ("assess", own.tokens, True)
        asked = {check.question for check in checklist_from_text(one.checklist)}
        assert {turn.question for turn in one.turns} <= asked
        assert one.turns
    code, _, err = illume(*words[:-2], -1, "-o", tmp_path / "e")
    assert (code, "--altered: expected 0 or more, got -1" in err) == (2, True)


def test_assessments_of_another_corpus_are_refused(corpus, tmp_path, illume):
    write_assessments(tmp_path / "a.jsonl", [assessment("000001-0", "another prompt", "checker", {}, 0.0, "a")])
    code, _, err = illume("enhance", "build", corpus, "--assessments", tmp_path / "a.jsonl", "-o", tmp_path / "d")
    assert (code, "assessment 000001-0 ('another prompt') is of no sample of this corpus" in err) == (2, True)
    write_assessments(tmp_path / "a.jsonl", [assessment("000001-0", "a red circle", "model", {}, 0.0, "a")])
    code, _, err = illume("enhance", "build", corpus, "--assessments", tmp_path / "a.jsonl", "-o", tmp_path / "d")
    assert (code, "assessment 000001-0 answers no question of the prompt; expected a judge that does" in err) == (
        2,
        True,
    )
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 7}, "line 1: schema_version 7 is unknown, expected 2; build it again"),
        (
            {"kind": "assess", "corrected_picture": "a.png"},
            "line 1: kind: got 'assess'; exactly a dialogue of the kind",
        ),
        ({"tokens": "x"}, 'line 1: tokens: got "x", expected a list'),
    ],
)
def test_what_is_no_dialogue_names_its_line(tmp_path, change, message):
    data = {
        "schema_version": 2,
        "kind": "assess",
        "id": "1",
        "prompt": "p",
        "checklist": "",
        "tokens": [1],
        "turns": [],
    }
    (tmp_path / "dialogues.jsonl").write_text(json.dumps({**data, **change}) + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        dialogues_from_folder(tmp_path)
    with pytest.raises(ValueError, match=r"has no dialogues.jsonl"):
        dialogues_from_folder(tmp_path / "none")


@pytest.fixture
def writer(tokenizer):
    from small_model import small_config

    return Writer(small_config(), tokenizer)


NO_PICTURES = np.zeros((0, 3, 3), np.int64)


def learnt(writer, sequence):
    """The words and the codes that a sequence teaches."""
    ids, losses = np.array(sequence.ids), np.array(sequence.losses)
    return ids[losses == TEXT].tolist(), ids[losses == LAYOUT].tolist()


def told(writer, turn):
    return [writer.config.controls.user, *writer.text(turn.question), writer.config.controls.assistant]


def answer(writer, words):
    return [*writer.text(words), writer.config.controls.end]


def test_a_checklist_is_learnt_from_the_prompt_alone(built, writer):
    dialogue = dialogue_corpus(built[0], writer).checklist[0]
    sequence = checklist_lesson(writer, dialogue, NO_PICTURES)
    c = writer.config.controls
    request = [c.begin, c.user, *writer.text(checklist_request(dialogue.prompt)), c.assistant]
    assert sequence.ids == [*request, *answer(writer, dialogue.checklist)]
    assert learnt(writer, sequence) == (answer(writer, dialogue.checklist), [])


def test_an_assessment_teaches_the_answers_and_where_they_are_seen_and_leaves_out_the_prompt(built, writer):
    dialogue = dialogue_corpus(built[0], writer).assess[0]
    sequence = assess_lesson(writer, dialogue, NO_PICTURES)
    c = writer.config.controls
    first, second = dialogue.turns
    expected = [c.begin, c.user, c.assistant, *dialogue.tokens, c.end]
    for turn in dialogue.turns:
        expected += [*told(writer, turn), *answer(writer, turn.answer)]
    assert sequence.ids == expected
    assert learnt(writer, sequence) == ([*answer(writer, first.answer), *answer(writer, second.answer)], [])
    at = sequence.ids.index(dialogue.tokens[0], 3)
    seen = [writer.place(sequence, cell) for cell in (4, 7)]
    assert at < seen[0] < seen[1] < at + len(dialogue.tokens)
    assert [(look.kind, look.places) for look in sequence.looks] == [
        (SHOWN, (seen[0],)),
        (SHOWN, (seen[0],)),
        (AGAINST, (seen[1],)),
    ]


def test_a_correction_teaches_the_right_picture_and_not_the_bad_one(built, writer):
    dialogue = dialogue_corpus(built[0], writer).correct[0]
    sequence = correct_lesson(writer, dialogue, None, NO_PICTURES)
    c = writer.config.controls
    words, codes = learnt(writer, sequence)
    answers = [token for turn in dialogue.turns for token in answer(writer, turn.answer)]
    assert words == [*answers, c.start_of_image]
    start, end = writer.config.level0_segment
    assert codes == [token for token in dialogue.corrected_tokens if start <= token < end]
    assert sequence.ids[: 3 + len(writer.text(dialogue.prompt))] == [
        c.begin,
        c.user,
        *writer.text(dialogue.prompt),
        c.assistant,
    ]
    second = len(sequence.ids) - 1 - sequence.ids[::-1].index(c.start_of_image)
    assert sequence.ids[second - len(writer.text(CORRECTION)) - 1 : second - 1] == writer.text(CORRECTION)


def test_a_corpus_adds_its_lessons_and_changes_no_other(built, writer):
    import torch

    codes = np.arange(9).reshape(1, 3, 3)

    def encode(pictures):
        return torch.zeros(len(pictures), 9, 24), np.repeat(codes, len(pictures), 0)

    corpus = dialogue_corpus(built[0], writer)
    plain = make_lessons("s", Mixture(2, 1, 1, 1), writer, encode)
    assert [group.ids.shape[0] for group in plain.groups] == [2, 1, 1, 1]
    mixed = make_lessons("s", Mixture(2, 1, 1, 1, checklist=1, assess=2, correct=3), writer, encode, corpus)
    assert [group.ids.shape[0] for group in mixed.groups] == [2, 1, 1, 1, 1, 2, 3]
    for before, after in zip(plain.groups, mixed.groups, strict=False):
        assert (before.ids == after.ids).all()
        assert (before.cells == after.cells).all()
    again = make_lessons("s", Mixture(2, 1, 1, 1, checklist=1, assess=2, correct=3), writer, encode, corpus)
    assert all((a.ids == b.ids).all() for a, b in zip(mixed.groups, again.groups, strict=True))


@pytest.mark.parametrize(
    ("tokens", "cells", "message"),
    [
        ((520, 521), (), "dialogue 1-0: its ids hold 2 codes, expected 9; the corpus was drawn by"),
        (
            tuple(range(520, 529)),
            (9,),
            "dialogue 1-0: an answer is seen in cell 9, expected one below 9; the corpus was",
        ),
    ],
)
def test_pictures_of_another_model_are_refused(tmp_path, writer, tokens, cells, message):
    one = Dialogue(2, "assess", "1-0", "p", "", tokens, (Turn("is it?", "yes", cells),))
    (tmp_path / "dialogues.jsonl").write_text(json.dumps(json_from_value(one)) + "\n")
    with pytest.raises(ValueError, match=message):
        dialogue_corpus(tmp_path, writer)

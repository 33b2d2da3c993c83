"""The best of several by the model's own word: the choice, the picture's number, redrawing, refusing."""

import json

import numpy as np
import pytest
from PIL import Image

from illume_runtime.enhance import best_of as module
from illume_runtime.enhance.assessment import assessment
from illume_runtime.enhance.best_of import BestOf
from illume_runtime.enhance.checklist import Check
from illume_runtime.errors import QualityError, UsageError
from illume_runtime.pipeline import ImageSampling, Pipeline

CHECKS = (Check("object", "how many stars are there?", "one"), Check("color", "is there a red star?", "yes"))


@pytest.fixture
def pipeline(taught, monkeypatch):
    """The small model; it never learnt to write a checklist, so that a good one is put into its mouth."""
    monkeypatch.setattr(module, "checklists_of", lambda model, prompts, **more: [CHECKS] * len(prompts))
    with Pipeline.load(taught, threads=1) as loaded:
        yield loaded


def test_the_best_is_the_picture_of_its_number_in_a_plain_batch(pipeline):
    best = pipeline.draw_best("a red star", BestOf(4), sampling=ImageSampling(seed=5))
    plain = pipeline.draw("a red star", n=4, sampling=ImageSampling(seed=5))
    number = best.picture.request
    assert best.scores[number] == max(best.scores)
    assert len(set(best.scores)) == 4
    assert all((a == b).all() for a, b in zip(best.picture.codes, plain[number].codes, strict=True))
    difference = np.asarray(best.picture.image, int) - np.asarray(plain[number].image, int)
    assert abs(difference).max() <= 1  # a batch of one and of four may round differently
    assert best.assessment.overall.score == best.scores[number]
    assert [one.check for one in best.assessment.checks] == list(CHECKS)
    assert (best.assessment.judge, best.assessment.prompt) == ("model", "a red star")


def test_only_the_best_becomes_pixels(pipeline, monkeypatch):
    original, rendered = module.pixels_of_codes, []

    def pixels_of_codes(stages, schedule, codes, requests, sampling, **more):
        rendered.append(list(requests))
        return original(stages, schedule, codes, requests, sampling, **more)

    monkeypatch.setattr(module, "pixels_of_codes", pixels_of_codes)
    best = pipeline.draw_best("a moon", BestOf(8))
    assert rendered == [[best.picture.request]]


def scripted(monkeypatch, rounds):
    """Scores of the candidates, round by round."""
    left = iter(rounds)

    def own_assessments(model, pictures, checklists, **more):
        scores = zip(pictures, next(left), strict=True)
        return [assessment(one.id, one.prompt, "model", {}, score, "scripted") for one, score in scores]

    monkeypatch.setattr(module, "own_assessments", own_assessments)


def test_candidates_are_drawn_again_until_one_reaches_the_score(pipeline, monkeypatch):
    scripted(monkeypatch, [[0.1, 0.2], [0.3, 0.7]])
    best = pipeline.draw_best("a moon", BestOf(2, 0.6))
    assert (best.scores, best.picture.request) == ((0.1, 0.2, 0.3, 0.7), 3)
    again = pipeline.draw("a moon", n=4)[3]
    assert all((a == b).all() for a, b in zip(best.picture.codes, again.codes, strict=True))


def test_where_no_candidate_reaches_the_score_there_is_no_picture(pipeline, monkeypatch):
    scripted(monkeypatch, [[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(QualityError, match=r"of 4 pictures the best has the score 0.400, expected at least 0.6;"):
        pipeline.draw_best("a moon", BestOf(2, 0.6, rounds=2))


def test_a_model_that_did_not_learn_to_assess_is_refused(bundle):
    with Pipeline.load(bundle, threads=1) as plain, pytest.raises(UsageError, match="did not learn to assess pictures"):
        plain.draw_best("a moon", BestOf(2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"candidates": 0}, "candidates: got 0, expected a whole number from 1 to 64"),
        ({"candidates": True}, "candidates: got True"),
        ({"rounds": 17}, "rounds: got 17, expected a whole number from 1 to 16"),
        ({"redraw_below": 1.5}, "redraw_below: got 1.5, expected a number from 0 to 1"),
        ({"redraw_below": float("nan")}, "redraw_below: got nan"),
    ],
)
def test_wrong_numbers_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        BestOf(**words)


def test_the_command_writes_the_picture_with_what_the_model_says(taught, tmp_path, illume):
    file = tmp_path / "o.png"
    code, out, err = illume("draw", taught, "a star", "--best-of", 3, "-o", file, "--threads", 1, "--json")
    assert code == 0, err
    (fact,) = json.loads(out)["pictures"]
    assert (len(fact["scores"]), fact["assessment"]["schema_version"]) == (3, 2)
    with Image.open(file) as image:
        assert json.loads(image.text["illume"])["assessment"] == fact["assessment"]
    code, out, _ = illume("draw", taught, "a star", "--best-of", 2, "-o", file)
    assert (code, "the best of 2, score " in out) == (0, True)


def test_the_command_refuses_and_leaves_no_file(taught, tmp_path, illume):
    file = tmp_path / "o.png"
    code, _, err = illume("draw", taught, "a star", "--redraw-below", 1, "-o", file)
    assert (code, "expected at least 1" in err, file.exists()) == (6, True, False)
    code, _, err = illume("draw", taught, "a star", "--best-of", 2, "-n", 2, "-o", file)
    assert (code, "which give one; leave one out" in err) == (2, True)
    code, _, err = illume("draw", taught, "a star", "--best-of", 2, "--preview", tmp_path / "p.png", "-o", file)
    assert (code, "which draw candidates; leave one out" in err) == (2, True)
    code, _, err = illume("draw", taught, "a star", "--redraw-below", 2, "-o", file)
    assert (code, "expected a number from 0 to 1" in err) == (2, True)

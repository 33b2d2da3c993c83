"""The judges: the checker on pictures that are right or wrong in one way, the model asked by checklists."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from benchmarks.enhance import sampled_captions
from illume_runtime.enhance import asking
from illume_runtime.enhance.assessment import AnsweredCheck, assessments_from_file
from illume_runtime.enhance.checklist import DIMENSIONS, Check
from illume_runtime.enhance.corpus import open_corpus
from illume_runtime.enhance.judge import Drawn
from illume_runtime.pipeline import Pipeline
from illume_runtime.prompts import AnswerTurn, UserTurn
from illume_runtime.schedule import TokenRun
from illume_training.enhancement.checking import Checker
from illume_training.enhancement.claims import answered, claims_of
from illume_training.enhancement.imagining import scene_from_caption
from illume_training.enhancement.questioning import Questioner
from illume_training.enhancement.reading import caption_from_text
from illume_training.evaluation.checker import see
from illume_training.looks import cell_of
from illume_training.world import Scene, caption_of, render, sample_scene
from illume_training.world.palette import COLORS, INNER
from illume_training.world.scene import with_objects


def captions(count):
    for number in range(count):
        rng = Random(f"caption-{number}")
        scene = sample_scene(rng, "train")
        yield scene, caption_of(scene, rng)


def test_every_caption_is_read_back_as_what_it_claims():
    assert [c for _, c in captions(1500) if caption_from_text(c.text) != c] == []


@pytest.mark.parametrize("text", ["", "a lighthouse at dusk", "a red", "two red circle and", "red circle"])
def test_other_words_are_no_caption(text):
    assert caption_from_text(text) is None


def assessed(scene, text, tmp_path):
    Image.fromarray(render(scene)).save(tmp_path / "p.png")
    (one,) = Checker().assess([Drawn("1-0", text, (), tmp_path / "p.png")])
    return one


def test_the_checker_finds_right_pictures_right_and_says_so(tmp_path):
    for scene, caption in captions(15):
        one = assessed(scene, caption.text, tmp_path)
        assert (one.overall.verdict, one.overall.analysis) == ("good", "all is there")
        assert all(one.dimension(name).score in (None, 1.0) for name in DIMENSIONS)


def test_the_checker_names_the_dimension_that_is_wrong(tmp_path):
    text = "two red circles and a blue star"
    scene = scene_from_caption(caption_from_text(text), Random(1))
    circles = [o for o in scene.objects if o.shape == "circle"]
    fewer = with_objects(scene, [o for o in scene.objects if o != circles[0]])
    other = with_objects(scene, [replace(o, color="green") if o.shape == "star" else o for o in scene.objects])
    moon = with_objects(scene, [replace(o, shape="moon") if o.shape == "star" else o for o in scene.objects])
    expected = [
        (fewer, "count", "one circle and one star", "wrong count"),
        (other, "color", "red circle and green star", "wrong color"),
        (moon, "object", "circle and moon", "wrong object and count and color"),
    ]
    for wrong, name, words, whole in expected:
        one = assessed(wrong, text, tmp_path)
        assert (one.dimension(name).score, one.dimension(name).analysis) == (0.0, words)
        assert (one.overall.verdict, one.overall.analysis) == ("bad", whole)


def test_the_checker_says_what_lies_where_it_should_not(tmp_path):
    scene = scene_from_caption(caption_from_text("a circle left of a star"), Random(2))
    one = assessed(scene, "a circle right of a star", tmp_path)
    assert (one.spatial.score, one.spatial.analysis) == (0.0, "circle left of star")
    background = "black" if scene.background.first != "black" else "white"
    one = assessed(scene, f"a circle left of a star on {background}", tmp_path)
    assert one.overall.analysis.startswith("the background is ")


def test_a_scene_of_a_caption_shows_what_it_says():
    made = [(c, scene_from_caption(c, Random(0))) for _, c in captions(25)]
    found = [(caption, scene) for caption, scene in made if scene is not None]
    assert len(found) >= 20
    assert all(isinstance(scene, Scene) and scene.split == "train" for _, scene in found)


def test_a_scene_of_a_caption_is_settled_as_drawings_are_taught():
    for caption in sampled_captions("drawings", 40, "train"):
        scene = scene_from_caption(caption, Random(0))
        if scene is None:
            continue
        things = list(scene.objects)  # as the eye meets them
        assert all(o.row < INNER[-1] for o in things)
        assert all(o.size == "medium" for o in things if not any(group.size for group in caption.groups))
        order = [next(i for i, group in enumerate(caption.groups) if o in group) for o in things]
        turned = any(relation.word in ("right", "below") for relation in caption.relations)
        assert order[: 2 if turned else None] == ([1, 0] if turned else sorted(order))
        for relation in caption.relations:
            first, second = things[:2]
            in_line = first.row == second.row if relation.word in ("left", "right") else first.column == second.column
            assert in_line


def test_a_prompt_of_another_world_stops_or_is_skipped(tmp_path, corpus, illume):
    import shutil

    shutil.copytree(corpus, tmp_path / "c")
    for picture in (tmp_path / "c").rglob("*.png"):
        Image.new("RGB", (96, 96), "white").save(picture)  # is checked sooner than noise
    file = tmp_path / "c" / "batches" / "000000" / "samples.jsonl"
    file.write_text(file.read_text().replace("a red circle", "a lighthouse"))
    code, _, err = illume("enhance", "assess", tmp_path / "c")
    assert (code, "'a lighthouse' is no caption of this world" in err) == (2, True)
    assert not (tmp_path / "c" / "assessments-checker.jsonl").exists()
    code, out, _ = illume("enhance", "assess", tmp_path / "c", "--on-error", "skip", "--json")
    assert (code, json.loads(out)["assessments"], len(json.loads(out)["skipped"])) == (0, 6, 2)


def drawn_of(corpus):
    return [Drawn(sample.id, sample.prompt, sample.tokens, path) for sample, path in open_corpus(corpus).samples()]


CHECKS = (
    Check("object", "how many stars are there?", "two"),
    Check("color", "is there a red star?", "yes"),
    Check("color", "is there a blue star?", "yes"),
)


@pytest.fixture
def asked(taught):
    """The small model, and its assessment of pictures by CHECKS."""
    with Pipeline.load(taught, threads=1) as pipeline:
        yield pipeline, lambda pictures: pipeline.assess_drawn(pictures, [CHECKS] * len(pictures))


def chance_of(model, picture, question, wanted):
    """Oracle: the product of the chances of the wanted tokens, one prompt computed anew for each."""
    run = TokenRun((*model.schedule.tag, *picture.tokens))
    start, chance, words = model.bundle.vocabulary.segment("text").start, 1.0, tuple(model.tokenizer.encode(wanted))
    turns = [UserTurn("x"), AnswerTurn(run), UserTurn(question)]
    row = model.embeds(model.writer.chat(turns).conditional, ())
    empty = model.embeds(model.writer.chat([UserTurn("x")]).conditional, ())
    word = len(model.tokenizer.encode("x"))
    place = next(i for i in range(len(empty)) if (model.engine.embed(model.tokenizer.encode("x")) == empty[i]).all())
    row = np.delete(row, range(place, place + word), axis=0)  # the words that it was drawn from
    for token in words:
        hidden = model.engine.start([row], len(row) + 1)
        logits = model.engine.logits("text", hidden, 1.0)[0].astype(np.float64)
        chances = np.exp(logits - logits.max())
        chance *= chances[token - start] / chances.sum()
        if logits.argmax() != token - start:
            break
        row = np.concatenate([row, model.engine.embed([token])])
    return chance


def test_a_score_is_the_chance_of_the_wanted_answer_as_far_as_the_model_gives_it(corpus, asked):
    pipeline, assess = asked
    for picture in drawn_of(corpus)[:2]:
        (one,) = assess([picture])
        for found in one.checks:
            expected = chance_of(pipeline._model, picture, found.question, found.wanted)
            assert found.score == pytest.approx(expected, rel=1e-4)
        own = replace(CHECKS[0], wanted=one.checks[0].answer[:1].strip(".,:?") or "z")
        (again,) = pipeline.assess_drawn([picture], [(own,)])
        expected = chance_of(pipeline._model, picture, own.question, own.wanted)
        assert again.overall.score == again.object.score == pytest.approx(expected, rel=1e-4)


def test_dimensions_and_the_whole_are_products_and_do_not_depend_on_the_batch(corpus, asked):
    _, assess = asked
    pictures = drawn_of(corpus)
    whole, alone = assess(pictures), [assess([picture])[0] for picture in pictures]
    assert [one.id for one in whole] == [picture.id for picture in pictures]
    np.testing.assert_allclose([o.overall.score for o in whole], [o.overall.score for o in alone], rtol=1e-3)
    for one in whole:
        first, second, third = (check.score for check in one.checks)
        assert (one.object.score, one.color.score) == (first, second * third)
        assert one.overall.score == pytest.approx(first * second * third)
        assert (one.count.score, one.spatial.score, one.overall.verdict) == (None, None, "bad")
    assert len({one.overall.score for one in whole}) == len(whole)


def test_an_analysis_says_what_was_answered_where_another_answer_is_wanted():
    picture = Drawn("7-0", "two red stars and a blue star", ())
    answers = zip(CHECKS, ("two", "yes", "no"), (0.9, 0.8, 0.1), strict=True)
    checks = [AnsweredCheck(c.dimension, c.question, c.wanted, answer, score) for c, answer, score in answers]
    one = asking._assessment(picture, checks)
    assert (one.object.analysis, one.color.analysis) == ("as asked", "is there a blue star: no, not yes")
    assert (one.overall.analysis, one.overall.verdict) == ("is there a blue star: no, not yes", "bad")
    good = asking._assessment(picture, checks[:2])
    assert (good.overall.analysis, good.overall.verdict) == ("all is as asked", "good")


def test_the_model_writes_each_checklist_once(corpus, taught, monkeypatch):
    written = []
    original = asking.answers_or_picture

    def answers_or_picture(model, rows, *more, **words):
        answers = original(model, rows, *more, **words)
        if not written:
            written.append(len(rows))
            answers = [replace(one, text="object: is there a star? yes") for one in answers]
        return answers

    monkeypatch.setattr(asking, "answers_or_picture", answers_or_picture)
    pictures = drawn_of(corpus)
    with Pipeline.load(taught, threads=1) as pipeline:
        found = pipeline.assess_drawn(pictures)
        given = pipeline.assess_drawn(pictures, [(Check("object", "is there a star?", "yes"),)] * len(pictures))
    assert written == [len({picture.prompt for picture in pictures})] == [4]
    assert found == given


def test_without_a_checklist_that_can_be_read_no_picture_is_good(corpus, taught):
    with Pipeline.load(taught, threads=1) as pipeline:  # it learnt nothing in truth, and writes noise
        (one,) = pipeline.assess_drawn(drawn_of(corpus)[:1])
    assert (one.overall.score, one.overall.verdict, one.overall.analysis) == (0.0, "bad", asking.NO_CHECKLIST)
    assert one.checks == ()


def test_ids_that_are_no_picture_are_refused(taught):
    with (
        Pipeline.load(taught, threads=1) as pipeline,
        pytest.raises(ValueError, match=r"picture 1-0: .* its ids are no picture of this bundle"),
    ):
        pipeline.assess_drawn([Drawn("1-0", "a star", (1, 2, 3))])


def checks_of(text):
    return [claim.check for claim in claims_of(caption_from_text(text))]


def test_a_checklist_has_every_claim():
    assert checks_of("two red circles left of a blue star on a mint background") == [
        Check("object", "how many objects are there?", "three"),
        Check("count", "how many circles are there?", "two"),
        Check("count", "how many stars are there?", "one"),
        Check("color", "is there a red circle?", "yes"),
        Check("color", "is there a blue star?", "yes"),
        Check("color", "what is the background?", "mint"),
        Check("spatial", "is the red circle left of the blue star?", "yes"),
    ]
    assert checks_of("outlines of a tiny orange star") == [
        Check("object", "how many objects are there?", "one"),
        Check("object", "how many stars are there?", "one"),
        Check("object", "how big is the orange star?", "small"),
        Check("color", "is there an orange star?", "yes"),
        Check("color", "is it an outline drawing?", "yes"),
    ]
    assert Check("color", "how many red objects are there?", "two") in checks_of("two red stars and a blue star")
    assert checks_of("in sepia, a star")[-1] == Check("color", "is it in sepia?", "yes")


def test_the_checker_answers_right_pictures_as_wanted_and_knows_where():
    asked = 0
    for scene, caption in captions(60):
        seen = see(render(scene))
        cells = {cell_of(o) for o in scene.objects}
        for claim in claims_of(caption):
            one = answered(claim, seen)
            assert (one.answer, one.score) == (claim.check.wanted, 1.0), (caption.text, claim.check)
            assert {*one.shown_by, *one.against} <= cells
            asked += 1
    assert asked > 200


def test_the_checker_answers_wrong_pictures_otherwise():
    scene = scene_from_caption(caption_from_text("a red star left of a blue moon"), Random(3))
    star, moon = sorted(scene.objects, key=lambda o: o.shape == "moon")
    answers = {
        one.question: one
        for one in (
            answered(c, see(render(scene))) for c in claims_of(caption_from_text("two red moons right of a star"))
        )
    }
    assert {question: (one.answer, one.score) for question, one in answers.items()} == {
        "how many objects are there?": ("two", 0.0),
        "how many moons are there?": ("one", 0.0),
        "how many stars are there?": ("one", 1.0),
        "is there a red moon?": ("no", 0.0),
        "is the red moon right of the star?": ("no", 0.0),
    }
    assert answers["how many moons are there?"].shown_by == (cell_of(moon),)
    assert answers["is the red moon right of the star?"].against in ((), (cell_of(star),))


def test_an_answer_that_is_not_plain_is_left_open():
    scene = scene_from_caption(caption_from_text("in sepia, a star"), Random(3))
    found = [
        answered(claim, see(render(scene))) for claim in claims_of(caption_from_text("a red star on a mint background"))
    ]
    assert [(one.answer, one.score) for one in found if one.dimension == "color"] == [(None, None)] * 2


def test_the_world_asks_a_model_that_writes_no_checklists(corpus, bundle):
    pictures = drawn_of(corpus)
    with Pipeline.load(bundle, threads=1) as pipeline:
        found = Questioner(pipeline.assess_drawn).assess(pictures)
        with pytest.raises(ValueError, match="did not learn to assess pictures"):
            pipeline.assess_drawn(pictures)
    assert {one.judge for one in found} == {"questions"}
    assert [[c.check for c in one.checks] for one in found] == [checks_of(picture.prompt) for picture in pictures]


@pytest.mark.parametrize("judge", ["checker", "model", "questions"])
def test_every_judge_writes_one_line_a_sample(corpus, taught, tmp_path, illume, judge):
    words = [] if judge == "checker" else ["--bundle", taught, "--threads", 1]
    code, out, err = illume("enhance", "assess", corpus, "--judge", judge, *words, "-o", tmp_path / "a.jsonl", "--json")
    assert code == 0, err
    found = list(assessments_from_file(tmp_path / "a.jsonl"))
    assert [one.id for one in found] == [picture.id for picture in drawn_of(corpus)]
    assert {one.judge for one in found} == {judge}
    assert json.loads(out)["good"] == sum(one.overall.verdict == "good" for one in found)


def test_a_judge_whose_codes_mean_something_else_is_refused(corpus, changed_bundle, illume):
    other = changed_bundle({"grammar.image.resolutions.0.name": "another"})
    code, _, err = illume("enhance", "assess", corpus, "--judge", "model", "--bundle", other)
    assert (code, "was drawn by another bundle" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge", "model"], "--judge model needs --bundle"),
        (["--bundle", "b"], "--bundle: the checker asks no model"),
    ],
)
def test_a_judge_without_its_model_is_a_usage_error(corpus, illume, words, message):
    code, _, err = illume("enhance", "assess", corpus, *words)
    assert (code, message in err) == (2, True)


def test_colours_are_told_apart_in_every_sentence():
    assert all(caption_from_text(f"a {color} moon").groups[0].color == color for color in COLORS)

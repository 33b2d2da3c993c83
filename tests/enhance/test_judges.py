"""The judges: the checker on pictures that are right or wrong in one way, the model in scripted words, questions."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from illume_runtime.enhance import asking
from illume_runtime.enhance.assessment import DIMENSIONS, GOOD, assessments_from_file
from illume_runtime.enhance.corpus import open_corpus
from illume_runtime.enhance.judge import Drawn
from illume_runtime.pipeline import Pipeline
from illume_runtime.results import Answer
from illume_training.enhancement.checking import Checker
from illume_training.enhancement.imagining import scene_from_caption
from illume_training.enhancement.questioning import Questioner, questions_of
from illume_training.enhancement.reading import caption_from_text
from illume_training.world import Scene, caption_of, render, sample_scene
from illume_training.world.palette import COLORS
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


def test_the_models_score_is_the_share_of_yes_and_does_not_depend_on_the_batch(corpus, taught):
    pictures = drawn_of(corpus)
    with Pipeline.load(taught, threads=1) as pipeline:
        whole = pipeline.assess_drawn(pictures)
        alone = [pipeline.assess_drawn([picture])[0] for picture in pictures]
    assert [one.id for one in whole] == [picture.id for picture in pictures]
    np.testing.assert_allclose([o.overall.score for o in whole], [o.overall.score for o in alone], atol=1e-5)
    scores = [one.overall.score for one in whole]
    assert all((one.overall.verdict == "good") == (one.overall.score >= GOOD) for one in whole)
    assert len({round(score, 6) for score in scores}) > 1


def test_the_models_words_give_the_dimensions_and_where_their_scores_stand(bundle):
    text = "object star: yes. count one star: no. picture no: wrong count"
    with Pipeline.load(bundle, threads=1) as pipeline:
        tokenizer = pipeline._model.tokenizer
    ids = tuple(tokenizer.encode(text))
    yes = np.full(len(ids), 0.5)
    yes[text.index("yes")], yes[text.index("no.")], yes[text.index("no: wrong")] = 0.9, 0.3, 0.2  # a token a byte
    told = asking.Told(Answer(text, ids, "end"), yes)
    one = asking._assessment(tokenizer, Drawn("7-0", "two stars", ()), told)
    assert (one.overall.score, one.overall.verdict, one.overall.analysis) == (0.2, "bad", "wrong count")
    assert (one.object.score, one.count.score, one.color.score) == (0.9, 0.3, None)
    assert (one.object.analysis, one.count.analysis) == ("star", "one star")


def test_an_answer_that_cannot_be_read_is_never_good(bundle):
    with Pipeline.load(bundle, threads=1) as pipeline:
        tokenizer = pipeline._model.tokenizer
    ids = tuple(tokenizer.encode("picture yes"))
    told = asking.Told(Answer("picture yes", ids, "end"), np.ones(len(ids) + 3))
    one = asking._assessment(tokenizer, Drawn("7-0", "two stars", ()), told)
    assert (one.overall.verdict, one.overall.analysis) == ("bad", asking.UNREADABLE)


def test_ids_that_are_no_picture_are_refused(taught):
    with (
        Pipeline.load(taught, threads=1) as pipeline,
        pytest.raises(ValueError, match=r"picture 1-0: .* its ids are no picture of this bundle"),
    ):
        pipeline.assess_drawn([Drawn("1-0", "a star", (1, 2, 3))])


def test_questions_ask_for_every_claim():
    caption = caption_from_text("two red circles left of a blue star")
    assert questions_of(caption) == [
        ("object", "how many objects are there?", "three"),
        ("count", "how many circles are there?", "two"),
        ("count", "how many stars are there?", "one"),
        ("color", "is there a red circle?", "yes"),
        ("color", "is there a blue star?", "yes"),
        ("spatial", "is the red circle left of the blue star?", "yes"),
    ]


def test_a_questioner_scores_the_share_of_right_answers():
    def ask(pictures, questions):
        wrong = {"how many circles are there?": "one", "is there a blue star?": "no"}
        right = {text: answer for _, text, answer in questions_of(caption_from_text(pictures[0].prompt))}
        return [wrong.get(question, right[question]) for question in questions]

    (bad,) = Questioner(ask).assess([Drawn("1", "two red circles and a blue star", ())])
    (good,) = Questioner(lambda pictures, questions: ["one", "one", "yes"]).assess([Drawn("2", "a red circle", ())])
    assert (bad.count.score, bad.color.score, bad.object.score, bad.overall.verdict) == (0.5, 0.5, 1.0, "bad")
    assert bad.count.analysis == "how many circles are there: one"
    assert (good.overall.score, good.overall.verdict) == (1.0, "good")


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

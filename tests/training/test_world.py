"""The world: seeded, split for good, balanced, and true in all that it says."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from illume_training.evaluation.description import description_from_text
from illume_training.world import (
    EDIT_KINDS,
    Caption,
    Group,
    Relation,
    Scene,
    SceneObject,
    caption_of,
    describe,
    render,
    sample_drawing,
    sample_edit,
    sample_question,
    sample_scene,
    sample_settled_edit,
)
from illume_training.world.palette import CELL, COLORS, HELD_OUT, JITTER, SHAPES
from illume_training.world.scene import BACKGROUNDS, Background, place
from illume_training.world.wording import NUMBERS, background_words, region_words

SPLITS = ("train", "validation", "test", "held_out")


def scenes(split: str, count: int, name: str = "world") -> list[Scene]:
    return [sample_scene(Random(f"{name}-{split}-{i}"), split) for i in range(count)]


def test_no_scene_belongs_to_two_splits() -> None:
    found = {split: {scene.fingerprint for scene in scenes(split, 150)} for split in SPLITS}
    for a in SPLITS:
        for b in SPLITS:
            assert a == b or not found[a] & found[b]


def test_jitter_and_style_do_not_carry_a_scene_into_another_split() -> None:
    for scene in scenes("test", 40):
        moved = tuple(
            SceneObject(o.row, o.column, o.shape, o.color, o.size, JITTER - o.dx, -o.dy) for o in scene.objects
        )
        assert Scene(moved, scene.background, "outline").split == "test"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_held_out_combinations_are_in_no_other_split(split: str) -> None:
    for scene in scenes(split, 200):
        assert not {o.kind for o in scene.objects} & HELD_OUT
    for i in range(30):
        edit = sample_edit(Random(f"held-{split}-{i}"), split)
        assert not {o.kind for o in (*edit.source.objects, *edit.target.objects)} & HELD_OUT


def test_every_held_out_scene_holds_a_held_out_combination() -> None:
    kinds = [{o.kind for o in scene.objects} & HELD_OUT for scene in scenes("held_out", 120)]
    assert all(kinds)
    assert set.union(*kinds) == HELD_OUT


def test_one_seed_makes_one_world_on_every_machine() -> None:
    """The digest stands here so that a change of the world, which makes all checkpoints stale, does not go unseen."""
    digest = hashlib.sha256()
    for i in range(60):
        rng = Random(f"same-{i}")
        scene = sample_scene(rng, "train")
        edit = sample_edit(rng, "train")
        caption, question = caption_of(scene, rng), sample_question(scene, rng)
        said = (question.kind, question.text, question.answer)
        digest.update(repr((scene, caption, said, edit)).encode())
        assert (render(scene) == render(scene)).all()
    assert digest.hexdigest() == "33a5b409a230e22c7e9a55f10ddb8f7f3935a331c17afced918cb2568f65a1f9"


def test_other_seeds_make_other_scenes() -> None:
    assert len({scene.fingerprint for scene in scenes("train", 200)}) > 195


def test_scenes_are_as_varied_as_the_words_for_them() -> None:
    seen = scenes("train", 500)
    objects = [o for scene in seen for o in scene.objects]
    assert {len(scene.objects) for scene in seen} == {1, 2, 3, 4, 5, 6}
    assert {o.shape for o in objects} == set(SHAPES)
    assert {o.color for o in objects} == set(COLORS)
    assert {scene.background for scene in seen} == set(BACKGROUNDS)
    assert {scene.style for scene in seen} == {"plain", "outline", "sepia"}


def test_objects_do_not_touch_and_stay_in_the_picture() -> None:
    for scene in scenes("train", 200):
        assert list(scene.objects) == sorted(scene.objects)
        for i, a in enumerate(scene.objects):
            assert a.radius < a.x < 256 - a.radius
            assert a.radius < a.y < 256 - a.radius
            assert all(a.fits_beside(b) for b in scene.objects[:i])


def test_yes_and_no_are_balanced() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for i in range(4000):
        rng = Random(f"balance-{i}")
        question = sample_question(sample_scene(rng, "train"), rng)
        if question.kind == "yes-no":
            counts["exists" if question.text.startswith("is there") else "compare", question.answer] += 1
    for form in ("exists", "compare"):
        yes, no = counts[form, "yes"], counts[form, "no"]
        # Four standard deviations of a fair coin.
        assert abs(yes - no) < 4 * (yes + no) ** 0.5, counts
        assert yes + no > 150


def answer(scene: Scene, text: str) -> str | None:
    """The answer to a question, found by reading it anew; None for what only `describe` knows."""
    objects = scene.objects
    if found := re.fullmatch(r"what is the (\w+) object\?|what shape is (\w+)\?", text):
        (shape,) = {o.shape for o in objects if o.color in found.groups()}
        return shape
    if found := re.fullmatch(r"what color is the (\w+)\?|which color does the (\w+) have\?", text):
        (color,) = {o.color for o in objects if o.shape in found.groups()}
        return color
    if text == "how many objects are there?":
        return NUMBERS[len(objects)]
    if found := re.fullmatch(r"how many (\w+) objects are there\?", text):
        return NUMBERS[sum(o.color == found[1] for o in objects)]
    if found := re.fullmatch(r"how many (\w+?)(?:es|s) are there\?", text):
        return NUMBERS[sum(o.shape.removesuffix("e") == found[1].removesuffix("e") for o in objects)]
    if found := re.fullmatch(r"is there an? (\w+) (\w+)\?", text):
        return "yes" if (found[2], found[1]) in {o.kind for o in objects} else "no"
    if found := re.fullmatch(r"is the (\w+) (\w+) (left of|right of|above|below) the (\w+) (\w+)\?", text):
        (a,) = [o for o in objects if o.kind == (found[2], found[1])]
        (b,) = [o for o in objects if o.kind == (found[5], found[4])]
        holds = {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[found[3]]
        return "yes" if holds else "no"
    if found := re.fullmatch(r"how big is the (\w+) (\w+)\?", text):
        (size,) = [o.size for o in objects if o.kind == (found[2], found[1])]
        return size
    if found := re.fullmatch(r"where is the (\w+) (\w+)\?", text):
        (place,) = [region_words(o.row, o.column) for o in objects if o.kind == (found[2], found[1])]
        return place
    return background_words(scene.background) if "background" in text else None


def test_every_question_has_the_answer_that_its_words_ask_for() -> None:
    kinds = Counter()
    for i in range(600):
        rng = Random(f"asked-{i}")
        scene = sample_scene(rng, "train")
        question = sample_question(scene, rng)
        kinds[question.kind] += 1
        if question.kind == "describe":
            assert question.answer == describe(scene)
        else:
            assert answer(scene, question.text) == question.answer, (scene, question)
    assert set(kinds) == {"what", "color", "count", "where", "yes-no", "size", "background", "describe"}


def test_a_description_reads_back_as_its_scene() -> None:
    for scene in scenes("train", 200):
        read = description_from_text(describe(scene))
        assert read is not None
        assert read.objects == tuple(sorted((o.size, o.color, o.shape) for o in scene.objects))
        assert (read.background, read.style) == (background_words(scene.background), scene.style)


SIZE_OF = {"little": "small", "tiny": "small", "big": "large"} | {s: s for s in ("small", "medium", "large")}
RELATION_OF = {"over": "above", "under": "below"} | {w: w for w in ("left", "right", "above", "below")}
OPENINGS = {
    "outline": ("an outline drawing of ", "outlines of "),
    "sepia": ("a sepia picture of ", "in sepia, "),
    "plain": ("a picture of ", "draw ", "an image with ", ""),
}


def parsed(text: str) -> Caption:
    """What a caption claims, by its words alone."""
    style, opening = next((s, o) for s, options in OPENINGS.items() for o in options if text.startswith(o))
    body, background = text.removeprefix(opening), None
    for candidate in BACKGROUNDS:
        name = background_words(candidate)
        for ending in (f" on a {name} background", f" on {name}", f" with a {name} background"):
            if body.endswith(ending):
                body, background = body.removesuffix(ending), candidate
    pieces = re.split(r", | and | (?:to the )?(left|right) of | (above|over|below|under) ", body)
    words = [piece for piece in pieces if piece]
    relations = [RELATION_OF[word] for word in words if word in RELATION_OF]
    groups = [group(word) for word in words if word not in RELATION_OF]
    return Caption(text, tuple(groups), tuple(Relation(0, word, 1) for word in relations), background, style)


def group(words: str) -> Group:
    first, *rest, shape = words.split()
    count = 1 if first in ("a", "an", "one") else NUMBERS.index(first)
    singular = shape if count == 1 else "cross" if shape == "crosses" else shape.removesuffix("s")
    size = next((SIZE_OF[word] for word in rest if word in SIZE_OF), None)
    color = next((word for word in rest if word in COLORS), None)
    assert len(rest) == (size is not None) + (color is not None), words
    assert singular in SHAPES
    return Group(count, singular, color, size)


def test_a_caption_says_in_words_what_it_claims() -> None:
    for i in range(600):
        rng = Random(f"caption-{i}")
        caption = caption_of(sample_scene(rng, "train"), rng)
        assert parsed(caption.text) == caption


def scene_and_caption(rng: Random) -> tuple[Scene, Caption]:
    scene = sample_scene(rng, "train")
    return scene, caption_of(scene, rng)


def drawing(rng: Random) -> tuple[Scene, Caption]:
    return sample_drawing(rng, "train")


@pytest.mark.parametrize("sample", [scene_and_caption, drawing])
def test_what_a_caption_claims_is_true_and_names_every_object(
    sample: Callable[[Random], tuple[Scene, Caption]],
) -> None:
    for i in range(300):
        scene, caption = sample(Random(f"true-{i}"))
        assert sum(g.count for g in caption.groups) == len(scene.objects)
        for g in caption.groups:
            fitting = [o for o in scene.objects if fits(o, g)]
            assert len(fitting) == g.count
        for relation in caption.relations:
            a, b = (
                next(o for o in scene.objects if fits(o, caption.groups[k])) for k in (relation.first, relation.second)
            )
            assert {"left": a.x < b.x, "right": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[relation.word]


def test_a_drawing_is_told_in_the_order_in_which_it_is_met() -> None:
    turned: Counter[str] = Counter()
    for i in range(400):
        scene, caption = drawing(Random(f"order-{i}"))
        order = list(caption.groups)
        for relation in caption.relations:
            assert (relation.first, relation.second) == (0, 1)
            turned[relation.word] += 1
            if relation.word in ("right", "below"):  # met first is what stands left or above, whatever is named first
                order[:2] = order[1::-1]
            a, b = (next(o for o in scene.objects if fits(o, g)) for g in order[:2])
            assert (a.row == b.row) if relation.word in ("left", "right") else (a.column == b.column)
        assert all(g.size or o.size == "medium" for g in order for o in scene.objects if fits(o, g))
        met = [next(k for k, g in enumerate(order) if fits(o, g)) for o in scene.objects]
        assert met == sorted(met), caption.text  # and each group stands together
        assert all(o.row < 6 for o in scene.objects)
        assert scene.split == "train"
        assert all(a == b or a.fits_beside(b) for a in scene.objects for b in scene.objects)
    assert min(turned[word] for word in ("left", "right", "above", "below")) > 10


def test_drawings_are_as_crowded_as_other_scenes() -> None:
    counts = Counter(len(drawing(Random(f"crowded-{i}"))[0].objects) for i in range(900))
    assert {n: round(counts[n] / 100) for n in range(1, 7)} == {1: 2, 2: 2, 3: 2, 4: 1, 5: 1, 6: 1}


def test_questions_are_asked_as_often_as_their_shares_say() -> None:
    rng = Random("shares")
    scene = sample_scene(rng, "train", num_objects=3, style="plain")
    kinds = Counter(sample_question(scene, rng, {"count": 3.0, "background": 1.0}).kind for _ in range(400))
    assert set(kinds) == {"count", "background"}
    assert 260 <= kinds["count"] <= 340


def fits(o: SceneObject, g: Group) -> bool:
    return o.shape == g.shape and g.color in (None, o.color) and g.size in (None, o.size)


def test_what_is_added_in_training_stands_in_the_first_cell_with_room() -> None:
    moved = 0
    for i in range(60):
        edit = sample_settled_edit(Random(f"settled-{i}"), "train", "add")
        assert edit.target.split == "train"
        (new,) = set(edit.target.objects) - set(edit.source.objects)
        region = region_words(new.row, new.column)
        assert edit.text.endswith(region)
        earlier = [
            replace(new, row=row, column=column)
            for row in range(1, 7)
            for column in range(1, 7)
            if region_words(row, column) == region and (row, column) < (new.row, new.column)
        ]
        assert all(new.fits_beside(old) for old in edit.source.objects)
        assert not any(all(o.fits_beside(old) for old in edit.source.objects) for o in earlier)
        moved += bool(earlier)
    assert 0 < moved < 40


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_changes_what_it_says_and_nothing_else(kind: str) -> None:
    for i in range(25):
        edit = sample_edit(Random(f"change-{kind}-{i}"), "train", kind)
        before, after = set(edit.source.objects), set(edit.target.objects)
        gone, new = before - after, after - before
        same_look = (edit.source.background, edit.source.style) == (edit.target.background, edit.target.style)
        assert edit.kind == kind
        assert (edit.source.split, edit.target.split) == ("train", "train")
        assert (edit.mask is not None) == (kind == "complete")
        if kind == "remove":
            (o,) = gone
            assert not new
            assert same_look
            assert edit.text.endswith(f"the {o.color} {o.shape}")
        elif kind == "add":
            (o,) = new
            assert not gone
            assert same_look
            assert edit.text == f"add a {o.size} {o.color} {o.shape} at the {region_words(o.row, o.column)}"
        elif kind == "recolor":
            (old,), (o,) = gone, new
            assert same_look
            assert (old.x, old.y, old.shape, old.size) == (o.x, o.y, o.shape, o.size)
            assert edit.text.endswith(f"the {old.color} {old.shape} {o.color}")
        else:
            assert not gone | new
            assert same_look == (kind == "complete")


def test_a_mask_hides_one_object_whole_and_touches_no_other() -> None:
    for i in range(40):
        edit = sample_edit(Random(f"mask-{i}"), "train", "complete")
        assert edit.mask is not None
        left, top, side = edit.mask
        masked, whole = render(edit.source, edit.mask), render(edit.source)
        changed = (masked != whole).any(-1)
        inside = np.zeros_like(changed)
        inside[top : top + side, left : left + side] = True
        assert not (changed & ~inside).any()
        touched = [
            o
            for o in edit.source.objects
            if inside[o.y - o.radius : o.y + o.radius + 1, o.x - o.radius : o.x + o.radius + 1].any()
        ]
        assert touched


def test_a_picture_shows_colour_in_the_middle_and_background_in_the_corner() -> None:
    scene = Scene((SceneObject(3, 4, "circle", "red", "large", 1, -2),), Background("white"))
    picture = render(scene)
    assert (picture.shape, picture.dtype) == ((256, 256, 3), np.uint8)
    assert tuple(picture[scene.objects[0].y, scene.objects[0].x]) == COLORS["red"]
    assert tuple(picture[0, 0]) == (255, 255, 255)


def test_edges_are_antialiased() -> None:
    scene = Scene((SceneObject(3, 3, "circle", "red", "large"),), Background("white"))
    row = render(scene)[scene.objects[0].y, :, 1].astype(int)
    between = row[(row > COLORS["red"][1]) & (row < 255)]
    assert 1 <= len(between) <= 4


@pytest.mark.parametrize(("row", "column", "words"), [(1, 1, "top left"), (3, 4, "center"), (6, 3, "bottom center")])
def test_regions_have_names(row: int, column: int, words: str) -> None:
    assert region_words(row, column) == words


def test_a_place_that_is_full_is_not_found() -> None:
    crowd = [SceneObject(row, column, "circle", "red", "large") for row in range(1, 7) for column in range(1, 7)]
    assert place(Random(0), crowd, "star", "red", "large") is None


def test_cells_hold_the_centres() -> None:
    for scene in scenes("train", 100):
        for o in scene.objects:
            assert (o.y // CELL, o.x // CELL) == (o.row, o.column)

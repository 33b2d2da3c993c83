"""The checker against the truth: it must see what the world draws, and nothing else in a picture that is wrong."""

from __future__ import annotations

import io
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from illume_training.evaluation.checker import see
from illume_training.evaluation.judging import caption_checks, scene_faults
from illume_training.evaluation.segmentation import grown, regions
from illume_training.world import EDIT_KINDS, Scene, caption_of, render, sample_edit, sample_scene
from illume_training.world.palette import COLORS, SHAPES, SIZES
from illume_training.world.scene import BACKGROUNDS, with_objects

SPLITS = ("train", "validation", "test", "held_out")


def few(failures: list, num_cases: int) -> bool:
    """At most one in a hundred."""
    return 100 * len(failures) <= num_cases


@pytest.mark.parametrize("style", ["plain", "outline", "sepia"])
def test_the_worlds_own_pictures_are_right(style: str) -> None:
    failures = []
    for i in range(100):
        rng = Random(f"right-{style}-{i}")
        scene = sample_scene(rng, SPLITS[i % 4], style=style)
        caption, seen = caption_of(scene, rng), see(render(scene))
        wrong = scene_faults(seen, scene) + [name for name, right in caption_checks(seen, caption).items() if not right]
        if wrong:
            failures.append((scene, caption.text, wrong))
    assert few(failures, 100), failures


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_the_targets_of_edits_are_right_and_their_sources_are_not(kind: str) -> None:
    failures = []
    for i in range(25):
        edit = sample_edit(Random(f"edit-{kind}-{i}"), "train", kind)
        (added, *_) = [o for o in edit.target.objects if o not in edit.source.objects] if kind == "add" else [None]
        if faults := scene_faults(see(render(edit.target)), edit.target, added):
            failures.append((edit, faults))
        if not scene_faults(see(render(edit.source, edit.mask)), edit.target, added):
            failures.append((edit, "the unedited picture passed"))
    assert failures == []


def recolored(scene: Scene, rng: Random) -> Scene:
    there = {o.color for o in scene.objects}
    i = rng.randrange(len(scene.objects))
    new = replace(scene.objects[i], color=rng.choice([c for c in COLORS if c not in there]))
    return with_objects(scene, [*scene.objects[:i], new, *scene.objects[i + 1 :]])


def reshaped(scene: Scene, rng: Random) -> Scene:
    there = {o.shape for o in scene.objects}
    i = rng.randrange(len(scene.objects))
    new = replace(scene.objects[i], shape=rng.choice([s for s in SHAPES if s not in there]))
    return with_objects(scene, [*scene.objects[:i], new, *scene.objects[i + 1 :]])


def resized(scene: Scene, rng: Random) -> Scene:
    i = rng.randrange(len(scene.objects))
    old = scene.objects[i]
    smaller = [size for size, radius in SIZES.items() if radius < old.radius] or ["medium"]
    return with_objects(scene, [*scene.objects[:i], replace(old, size=smaller[-1]), *scene.objects[i + 1 :]])


def without_one(scene: Scene, rng: Random) -> Scene:
    i = rng.randrange(len(scene.objects))
    return with_objects(scene, [*scene.objects[:i], *scene.objects[i + 1 :]])


def on_another_background(scene: Scene, rng: Random) -> Scene:
    return Scene(scene.objects, rng.choice([b for b in BACKGROUNDS if b != scene.background]), scene.style)


def in_outline(scene: Scene, rng: Random) -> Scene:
    return Scene(scene.objects, scene.background, "outline")


def mirrored(scene: Scene, rng: Random) -> Scene:
    return with_objects(scene, [replace(o, row=7 - o.row, column=7 - o.column) for o in scene.objects])


@pytest.mark.parametrize(
    "spoil", [recolored, reshaped, resized, without_one, on_another_background, in_outline, mirrored]
)
def test_a_wrong_scene_is_rejected(spoil) -> None:
    passed = []
    for i in range(60):
        rng = Random(f"wrong-{i}")
        scene = sample_scene(rng, "train", style="plain")
        wrong = spoil(scene, rng)
        if not scene_faults(see(render(wrong)), scene):
            passed.append((scene, wrong))
    assert passed == []


@pytest.mark.parametrize(
    ("spoil", "dimension", "others"),
    [
        (recolored, "color", {"object", "count", "size", "background"}),
        (reshaped, "object", {"background"}),
        (without_one, "all", {"background"}),
        (mirrored, "spatial", {"object", "count", "color", "size", "background"}),
        (on_another_background, "background", {"object", "count", "color", "size", "spatial"}),
    ],
)
def test_a_drawing_is_wrong_in_the_dimension_that_was_spoilt_alone(spoil, dimension: str, others: set[str]) -> None:
    missed, judged, i = [], 0, 0
    while judged < 40:
        rng = Random(f"dimension-{i}")
        i += 1
        scene = sample_scene(rng, "train", style="plain")
        caption = caption_of(scene, rng)
        stated = {
            "color": any(g.color for g in caption.groups),
            "spatial": bool(caption.relations),
            "background": caption.background is not None,
        }
        if not stated.get(dimension, True):
            continue
        judged += 1
        checks = caption_checks(see(render(spoil(scene, rng))), caption)
        if checks[dimension] or checks["all"] or not all(checks[name] for name in others & set(checks)):
            missed.append((caption, checks))
    assert missed == []


def test_only_what_a_caption_states_is_scored() -> None:
    for i in range(60):
        rng = Random(f"stated-{i}")
        scene = sample_scene(rng, "train")
        caption = caption_of(scene, rng)
        checks = caption_checks(see(render(scene)), caption)
        assert ("count" in checks) == any(g.count > 1 for g in caption.groups)
        assert ("color" in checks) == any(g.color for g in caption.groups)
        assert ("spatial" in checks) == bool(caption.relations)
        assert ("style" in checks) == (caption.style != "plain")
        assert {"object", "all"} <= set(checks)


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def noisy(picture: Image.Image, deviation: float, block: int = 1) -> Image.Image:
    """Normal noise per pixel, or of blotches `block` pixels wide."""
    pixels = np.asarray(picture, np.float32)
    size = (256 // block, 256 // block, 3)
    noise = np.random.default_rng(5).normal(0, deviation, size).astype(np.float32)
    planes = [np.asarray(Image.fromarray(noise[..., c]).resize((256, 256), Image.Resampling.BICUBIC)) for c in range(3)]
    return Image.fromarray(np.clip(pixels + np.stack(planes, -1), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda picture: picture.filter(ImageFilter.GaussianBlur(1.2)),
        lambda picture: noisy(picture, 10.0),
        lambda picture: noisy(picture, 5.0, block=16),
        lambda picture: jpeg(picture, 40),
        lambda picture: jpeg(noisy(noisy(picture.filter(ImageFilter.GaussianBlur(0.8)), 4.0, block=16), 3.0), 60),
    ],
    ids=["blur", "noise", "blotches", "jpeg", "all of them"],
)
def test_what_a_decoder_does_to_a_picture_does_not_mislead(spoil) -> None:
    failures = []
    for i in range(50):
        scene = sample_scene(Random(f"spoilt-{i}"), "train")
        picture = np.asarray(spoil(Image.fromarray(render(scene))))
        if faults := scene_faults(see(picture), scene):
            failures.append((scene, faults))
    assert len(failures) <= 1, failures


def test_a_picture_of_nothing_has_no_objects() -> None:
    for background in BACKGROUNDS:
        seen = see(render(Scene((), background)))
        assert (seen.background, seen.style, seen.objects) == (background, "plain", ())


def test_a_shape_that_the_world_lacks_is_unknown() -> None:
    picture = np.full((256, 256, 3), 255, np.uint8)
    picture[40:48, 20:220] = (220, 40, 40)
    assert [o.shape for o in see(picture).objects] == ["unknown"]


@pytest.mark.parametrize("picture", [np.zeros((128, 128, 3), np.uint8), np.zeros((256, 256, 3), np.float32)])
def test_another_size_or_type_is_refused(picture) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[256, 256, 3\]"):
        see(picture)


def test_regions_are_those_of_a_flood_fill() -> None:
    for seed in range(20):
        mask = np.random.default_rng(seed).random((17, 23)) < 0.45
        found = np.zeros(mask.shape, int)
        for number, (rows, columns, own) in enumerate(regions(mask), 1):
            assert not (found[rows, columns][own]).any()
            found[rows, columns][own] = number
        assert ((found > 0) == mask).all()
        _check_flood(mask, found)


def _check_flood(mask: np.ndarray, found: np.ndarray) -> None:
    """Two neighbours of the mask have the same number, and every number is one connected piece."""
    for a, b in ((found[1:], found[:-1]), (found[:, 1:], found[:, :-1])):
        both = (a > 0) & (b > 0)
        assert (a[both] == b[both]).all()
    for number in range(1, found.max() + 1):
        reached = np.zeros(mask.shape, bool)
        reached[tuple(np.argwhere(found == number)[0])] = True
        while (more := grown(reached) & (found == number)).sum() > reached.sum():
            reached = more
        assert reached.sum() == (found == number).sum()

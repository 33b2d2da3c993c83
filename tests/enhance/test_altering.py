"""Prompts with one word changed: captions of the world still, and of training combinations only."""

from random import Random

import pytest

from illume_training.enhancement.altering import altered_caption
from illume_training.enhancement.reading import caption_from_text
from illume_training.world import caption_of, sample_scene
from illume_training.world.palette import HELD_OUT


def test_one_word_changes_and_the_prompt_stays_a_caption():
    for number in range(400):
        rng = Random(f"altered-{number}")
        text = caption_of(sample_scene(rng, "train"), rng).text
        claimed, was = altered_caption(text, rng), caption_from_text(text)
        before, after = ([w for w in words.split() if w not in ("a", "an")] for words in (text, claimed.text))
        assert len(before) == len(after)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        assert claimed == caption_from_text(claimed.text)
        assert (claimed.background, claimed.style) == (was.background, was.style)
        assert (claimed.groups, claimed.relations) != (was.groups, was.relations)
        assert not {(group.shape, group.color) for group in claimed.groups} & HELD_OUT


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("a star left of a moon on white to gray from left to right", {"right", "left"}),
        ("a star under a moon", {"above", "over", "under"}),
    ],
)
def test_the_words_of_a_background_stay(text, possible):
    found = {altered_caption(text, Random(i)).text for i in range(200)}
    assert all(changed.endswith(text.partition(" on ")[2]) for changed in found)
    assert {word for changed in found for word in changed.partition(" on ")[0].split() if word in possible} == possible


def test_articles_follow_their_words():
    found = {altered_caption("a red star", Random(i)).text for i in range(200)}
    assert {"an orange star", "a blue star", "a red heart"} <= found
    assert not {"a cyan star", "a red moon"} & found  # no training scene holds them


@pytest.mark.parametrize("text", ["", "a lighthouse at dusk", "two red circle and"])
def test_other_words_have_no_altered_prompt(text):
    assert altered_caption(text, Random(0)) is None

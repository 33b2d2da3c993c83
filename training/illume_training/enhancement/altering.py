"""Prompts with one word changed: a picture that was right for the one is wrong for the other, mostly.

A model that only ever judges pictures of its own prompts sees few that are wrong, and learns to repeat the prompt as
what it sees. What a changed prompt says is not what there is.
"""

from __future__ import annotations

import re
from random import Random
from typing import Final

from illume_training.enhancement.reading import caption_from_text
from illume_training.world import Caption
from illume_training.world.palette import COLORS, HELD_OUT, SHAPES
from illume_training.world.wording import NUMBERS, RELATION_WORDS, SIZE_WORDS, plural

_KINDS: Final = (
    tuple((color,) for color in COLORS),
    tuple((shape,) for shape in SHAPES),
    tuple((plural(shape),) for shape in SHAPES),
    tuple((number,) for number in NUMBERS[2:]),
    tuple(SIZE_WORDS.values()),
    (RELATION_WORDS["left"], RELATION_WORDS["right"]),
    (RELATION_WORDS["above"], RELATION_WORDS["below"]),
)
_WORD: Final = re.compile(r"[a-z]+")
_TRIES: Final = 20


def altered_caption(text: str, rng: Random) -> Caption | None:
    """The caption with one of its words changed for another of its kind; None for words that are no caption.

    Combinations that no training scene holds are not made.
    """
    if caption_from_text(text) is None:
        return None
    body = text.partition("from ")[0]  # left and right behind it are of the background
    places = [(found, kind) for found in _WORD.finditer(body) for kind in _KINDS if _same(kind, found[0])]
    for _ in range(_TRIES if places else 0):
        found, kind = rng.choice(places)
        word = rng.choice(rng.choice([words for words in kind if found[0] not in words]))
        changed = _with_article(text[: found.start()], word) + text[found.end() :]
        caption = caption_from_text(changed)
        if caption is not None and not any((group.shape, group.color) in HELD_OUT for group in caption.groups):
            return caption
    return None


def _same(kind: tuple[tuple[str, ...], ...], word: str) -> bool:
    return any(word in words for words in kind)


def _with_article(before: str, word: str) -> str:
    article = re.search(r"\b(a|an) $", before)
    if article:
        before = f"{before[: article.start()]}{'an' if word[0] in 'aeiou' else 'a'} "
    return before + word

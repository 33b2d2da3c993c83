"""Captions read back: what a prompt of the world claims."""

from __future__ import annotations

import re
from typing import Final

from illume_training.world import Caption, Group, Relation
from illume_training.world.palette import COLORS, SHAPES
from illume_training.world.scene import BACKGROUNDS
from illume_training.world.wording import NUMBERS, SIZE_WORDS, background_words

_SIZES: Final = {word: size for size, words in SIZE_WORDS.items() for word in words}
_PLURALS: Final = {shape + ("es" if shape == "cross" else "s"): shape for shape in SHAPES}
_BACKGROUNDS: Final = {background_words(background): background for background in BACKGROUNDS}
_OPENINGS: Final = {
    "outline": ("an outline drawing of ", "outlines of "),
    "sepia": ("a sepia picture of ", "in sepia, "),
    "plain": ("a picture of ", "draw ", "an image with ", ""),
}
_RELATION: Final = re.compile(r" (?:to the )?(left|right) of | (above|over|below|under) ")
_WORDS: Final = {"over": "above", "under": "below"}
_GROUP: Final = re.compile(
    rf"(a|an|{'|'.join(NUMBERS[1:])}) (?:({'|'.join(_SIZES)}) )?(?:({'|'.join(COLORS)}) )?"
    rf"({'|'.join([*_PLURALS, *SHAPES])})"
)


def caption_from_text(text: str) -> Caption | None:
    """What the caption claims; None for words that are no caption."""
    style, opening = next((s, o) for s, openings in _OPENINGS.items() for o in openings if text.startswith(o))
    body, background = text[len(opening) :], None
    for name, candidate in _BACKGROUNDS.items():
        for end in (f" on a {name} background", f" with a {name} background", f" on {name}"):
            if body.endswith(end):
                body, background = body.removesuffix(end), candidate
    pieces, relations = re.split(r", | and ", body), []
    related = _RELATION.search(pieces[0])
    if related is not None:
        word = related[1] or _WORDS.get(related[2], related[2])
        relations.append(Relation(0, word, 1))
        pieces[:1] = [pieces[0][: related.start()], pieces[0][related.end() :]]
    groups = []
    for piece in pieces:
        found = _GROUP.fullmatch(piece)
        if found is None:
            return None
        count = NUMBERS.index(found[1]) if found[1] in NUMBERS else 1
        size = _SIZES[found[2]] if found[2] else None
        groups.append(Group(count, _PLURALS.get(found[4], found[4]), found[3], size))
    return Caption(text, tuple(groups), tuple(relations), background, style)

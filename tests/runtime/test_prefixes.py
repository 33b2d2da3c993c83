"""Which rows share a beginning: as few tokens as any grouping computes, found by trying all."""

from collections.abc import Iterator
from itertools import groupby
from random import Random

import numpy as np
import pytest

from illume_runtime.prefixes import common_length, shared_beginnings

SHORTEST = 3


def row(text: str) -> np.ndarray:
    """A token a letter."""
    return np.array([[ord(letter), 0.5] for letter in text], np.float32)


def partitions(items: list[str]) -> Iterator[list[list[str]]]:
    if not items:
        yield []
        return
    first, *rest = items
    for parts in partitions(rest):
        yield [[first], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [first, *part], *parts[i + 1 :]]


def cost(parts: list[list[str]]) -> int:
    """Tokens computed; a part of several needs SHORTEST in common, and a row keeps one token of its own."""
    total = 0
    for part in parts:
        shared = min(common_length([row(text) for text in part]), *(len(text) - 1 for text in part), 10**6)
        if len(part) > 1 and shared < SHORTEST:
            return 10**9
        total += shared + sum(len(text) - shared for text in part)
    return total


@pytest.mark.parametrize("seed", range(30))
def test_no_grouping_computes_fewer_tokens(seed: int) -> None:
    rng = Random(seed)
    texts = {"".join(rng.choices("ab", (5, 1), k=rng.randint(2, 9))) for _ in range(7)}
    rows = sorted(texts)
    rng.shuffle(rows)
    found = shared_beginnings([row(text) for text in rows], SHORTEST)
    beginnings, of_row = found or ([row(text) for text in rows], list(range(len(rows))))
    by_beginning = sorted(zip(of_row, rows, strict=True))
    parts = [[text for _, text in some] for _, some in groupby(by_beginning, key=lambda pair: pair[0])]
    for number, text in by_beginning:
        beginning = beginnings[number]
        assert (row(text)[: len(beginning)] == beginning).all()
        assert found is None or len(beginning) < len(text)
    assert cost(parts) == min(map(cost, partitions(rows)))


def test_questions_about_pictures_that_begin_alike_share_their_own_picture() -> None:
    pictures = ["sky" + "a" * 20, "sky" + "b" * 20]
    found = shared_beginnings([row(picture + question) for picture in pictures for question in "123"], SHORTEST)
    assert found is not None
    beginnings, of_row = found
    assert sorted(map(len, beginnings)) == [23, 23]
    assert len(set(of_row[:3])) == len(set(of_row[3:])) == 1


def test_rows_that_have_little_in_common_share_nothing() -> None:
    assert shared_beginnings([row("abcde"), row("abxyz"), row("q")], SHORTEST) is None

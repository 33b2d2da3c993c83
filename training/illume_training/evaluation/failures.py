"""A contact sheet of failures: what was shown, what came out, what was asked, what was expected, what was seen."""

from __future__ import annotations

from typing import Final

from PIL import Image, ImageDraw, ImageFont

from illume_training.evaluation.tasks import Outcome, Pixels

_SIDE: Final = 176  # pixels of a picture
_GAP: Final = 14
_LINE: Final = 15
_MOST_LINES: Final = 12  # under a picture
_WIDTH: Final = 2 * _SIDE + 6  # of a cell: before and after
_COLUMNS: Final = 4
_TITLE: Final = 26
_INK, _SOFT, _BAD, _PAPER = (28, 29, 34), (106, 109, 120), (179, 56, 44), (251, 250, 247)

_Cell = tuple[list[Image.Image], list[tuple[str, tuple[int, int, int]]]]  # pictures; lines and their colours


class FailureSheet:
    """Collects the first failures of every task and split, at most `most` of each."""

    def __init__(self, most: int = 24) -> None:
        self._most = most
        self._failed: dict[str, list[Outcome]] = {}

    def add(self, title: str, outcome: Outcome) -> None:
        """Keep the outcome if it failed and there is room under this title."""
        failed = self._failed.setdefault(title, [])
        if not outcome.checks["all"] and len(failed) < self._most:
            failed.append(outcome)

    def image(self) -> Image.Image:
        """The sheet, RGB."""
        blocks: list[tuple[str, list[list[_Cell]], list[int]]] = []
        for title, failed in self._failed.items():
            cells = [_cell(outcome) for outcome in failed]
            rows = [cells[first : first + _COLUMNS] for first in range(0, len(cells), _COLUMNS)]
            heights = [_SIDE + 6 + max(len(lines) for _, lines in row) * _LINE + _GAP for row in rows]
            words = f"{title}: the first {len(failed)} failures" if failed else f"{title}: no failures"
            blocks.append((words, rows, heights))
        height = _GAP + sum(_TITLE + sum(heights) + _GAP for _, _, heights in blocks)
        sheet = Image.new("RGB", (_GAP + _COLUMNS * (_WIDTH + _GAP), height), _PAPER)
        draw, top = ImageDraw.Draw(sheet), _GAP
        for words, rows, heights in blocks:
            draw.text((_GAP, top), words, _INK, ImageFont.load_default(16))
            top += _TITLE
            for row, row_height in zip(rows, heights, strict=True):
                for column, cell in enumerate(row):
                    _paint(sheet, draw, _GAP + column * (_WIDTH + _GAP), top, cell)
                top += row_height
            top += _GAP
        return sheet


def _cell(outcome: Outcome) -> _Cell:
    """The pictures and the coloured lines of an outcome."""
    pictures = [_small(pixels) for pixels in (outcome.before, outcome.after) if pixels is not None]
    expected = f"expected: {outcome.expected}" if outcome.expected else ""
    texts = ((outcome.prompt, _INK), (expected, _SOFT), (outcome.got, _BAD))
    return pictures, [(line, color) for words, color in texts for line in _lines(words)][:_MOST_LINES]


def _paint(sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, cell: _Cell) -> None:
    pictures, lines = cell
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (left + i * (_SIDE + 6), top))
    for i, (line, color) in enumerate(lines):
        draw.text((left, top + _SIDE + 6 + i * _LINE), line, color, ImageFont.load_default(12))


def _small(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _lines(words: str) -> list[str]:
    """The words in lines as wide as a cell."""
    font, lines = ImageFont.load_default(12), [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _WIDTH:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if words else []

"""A contact sheet of failures: what was shown, what came out, what was asked, what was expected, what was seen."""

from __future__ import annotations

from typing import Final

from PIL import Image, ImageDraw, ImageFont

from illume_training.evaluation.tasks import Outcome, Pixels

_SIDE: Final = 176  # pixels of a picture
_GAP: Final = 14
_LINE: Final = 15
_LINES: Final = 12  # under a picture
_WIDTH: Final = 2 * _SIDE + 6  # of a cell: before and after
_COLUMNS: Final = 4
_TITLE: Final = 26
_INK, _SOFT, _BAD, _PAPER = (28, 29, 34), (106, 109, 120), (179, 56, 44), (251, 250, 247)


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
        cell_height = _SIDE + 6 + _LINES * _LINE + _GAP
        heights = [_TITLE + -(-len(failed) // _COLUMNS) * cell_height + _GAP for failed in self._failed.values()]
        sheet = Image.new("RGB", (_GAP + _COLUMNS * (_WIDTH + _GAP), _GAP + sum(heights)), _PAPER)
        draw, top = ImageDraw.Draw(sheet), _GAP
        for (title, failed), height in zip(self._failed.items(), heights, strict=True):
            words = f"{title}: the first {len(failed)} failures" if failed else f"{title}: no failures"
            draw.text((_GAP, top), words, _INK, ImageFont.load_default(16))
            for number, outcome in enumerate(failed):
                left = _GAP + number % _COLUMNS * (_WIDTH + _GAP)
                _cell(sheet, draw, left, top + _TITLE + number // _COLUMNS * cell_height, outcome)
            top += height
        return sheet


def _cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, outcome: Outcome) -> None:
    pictures = [pixels for pixels in (outcome.before, outcome.after) if pixels is not None]
    for i, pixels in enumerate(pictures):
        sheet.paste(_small(pixels), (left + i * (_SIDE + 6), top))
    y, bottom = top + _SIDE + 6, top + _SIDE + 6 + _LINES * _LINE
    texts = [(outcome.prompt, _INK), (outcome.expected and f"expected: {outcome.expected}", _SOFT), (outcome.got, _BAD)]
    for words, color in texts:
        for line in _lines(words):
            if y < bottom:
                draw.text((left, y), line, color, ImageFont.load_default(12))
                y += _LINE


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

"""The contact sheet as one picture: what was drawn, edited, answered and reconstructed, with its words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from illume_training.demo.results import Results

SIDE: Final = 192  # pixels of a picture
GAP: Final = 16
LINE: Final = 17
WORDS: Final = 3 * LINE + 10  # room under a picture
INK, SOFT, PAPER = (28, 29, 34), (106, 109, 120), (251, 250, 247)

Cell = tuple[str, str]  # picture file, words under it


def sheet_image(results: Results, folder: Path) -> Image.Image:
    """The sheet, RGB; the pictures of `results` lie in `folder`."""
    rows: list[tuple[str, list[Cell]]] = [
        ("draw", [(drawn.files[0], drawn.prompt) for drawn in results.drawn]),
        ("edit: before", [(changed.before, changed.words) for changed in results.edited]),
        ("edit: after", [(changed.after, "") for changed in results.edited]),
        (
            "ask, and reconstruct from 64 visual tokens",
            [
                *((shown.file, f"{a.question} {a.answer}") for shown in results.shown for a in shown.answers[1:2]),
                *((changed.after, "reconstructed") for changed in results.reconstructed),
            ],
        ),
    ]
    columns = max(len(cells) for _, cells in rows)
    heights = [2 * LINE + SIDE + (WORDS if any(words for _, words in cells) else GAP) for _, cells in rows]
    sheet = Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + sum(heights)), PAPER)
    draw, top = ImageDraw.Draw(sheet), GAP
    for (title, cells), height in zip(rows, heights, strict=True):
        draw.text((GAP, top), title, SOFT, ImageFont.load_default(13))
        for column, (file, words) in enumerate(cells):
            left = GAP + column * (SIDE + GAP)
            with Image.open(folder / file) as picture:
                small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(small, (left, top + LINE + 4))
            for number, line in enumerate(_lines(words)):
                draw.text((left, top + LINE + SIDE + 9 + number * LINE), line, INK, ImageFont.load_default(13))
        top += height
    return sheet


def _lines(words: str) -> list[str]:
    """The words in at most three lines as wide as a picture."""
    font, lines = ImageFont.load_default(13), [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= SIDE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:3]

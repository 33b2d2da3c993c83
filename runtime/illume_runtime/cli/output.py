"""What a verb leaves behind: one JSON object on standard output, and PNG files that say how to draw them again."""

from __future__ import annotations

import argparse
import json
import os
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from illume_runtime.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from illume_runtime.pipeline import Picture

PNG_KEY = "illume"


def print_result(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    """Print the object with `--json`, else the text."""
    print(json.dumps(data) if args.json else text)


def note(args: argparse.Namespace, text: str) -> None:
    """A remark for people, on standard error; nothing with `--json`."""
    if not args.json:
        print(text, file=sys.stderr, flush=True)


def add_output(parser: argparse.ArgumentParser) -> None:
    """`-o OUT.png`."""
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT.png",
        help="PNG file; several become OUT-0.png, or {i} in the name",
    )


def add_preview(parser: argparse.ArgumentParser) -> None:
    """`--preview OUT.png`."""
    parser.add_argument(
        "--preview",
        metavar="OUT.png",
        help="PNG file of what the first of two levels shows, written while the second is drawn",
    )


def picture_paths(pattern: str, num_pictures: int, option: str = "--output") -> list[Path]:
    """One path per picture: `{i}` in the pattern is the number, else `-0`, `-1`, ... where there are several.

    Raises UsageError for a name that does not end in .png, UnavailableError for a folder that cannot be written.
    """
    path = Path(pattern)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{option} {pattern!r} does not end in .png; pictures are written as PNG")
    if "{i}" not in pattern and num_pictures > 1:
        pattern = str(path.with_name(f"{path.stem}-{{i}}{path.suffix}"))
    paths = [Path(pattern.replace("{i}", str(number))) for number in range(num_pictures)]
    for path in paths:
        check_output(path, option)
    return paths


def check_output(path: Path, option: str = "--output") -> None:
    """Raise UsageError or UnavailableError if the file could not be written: known before the work, not after it."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; create it with: mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UnavailableError(f"the folder {path.parent} is not writable; choose another one with {option}")


def write_picture(path: Path, picture: Picture, about: dict[str, Any]) -> dict[str, Any]:
    """Write the PNG, whole or not at all, with `about` and the picture's own facts as its text; gives them back."""
    from PIL.PngImagePlugin import PngInfo

    from illume_runtime.files import atomic_write
    from illume_runtime.images import write_png

    facts = {
        **about,
        "prompt": picture.prompt,
        "seed": picture.seed,
        "request": picture.request,
        "codes_sha256": codes_sha256(picture),
    }
    text = PngInfo()
    text.add_itxt(PNG_KEY, json.dumps(facts))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        write_png(picture.image, file, text=text)
    return {"file": str(path), **facts}


def codes_sha256(picture: Picture) -> str:
    """The hash of all visual tokens as little-endian int64, level by level: equal for equal pictures."""
    digest = sha256()
    for codes in picture.codes:
        digest.update(codes.astype("<i8").tobytes())
    return digest.hexdigest()

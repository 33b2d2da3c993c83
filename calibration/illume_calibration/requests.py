"""Requests from a JSONL file: one JSON object a line.

    {"task": "describe", "image": "scene.png", "question": "what color is the star?"}
    {"task": "draw", "prompt": "a red circle"}
    {"task": "edit", "image": "scene.png", "instruction": "make the background blue"}
    {"task": "reconstruct", "image": "scene.png"}

Paths of images are relative to the file. `seed` (0) may stand in each. Empty lines are skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Final

from illume_runtime.errors import UsageError
from illume_runtime.limits import MAX_PROMPT_CHARS
from illume_runtime.typed_json import json_from_text

# Task -> the keys of its object besides `task` and `seed`, all required.
TASKS: Final = {
    "describe": ("image", "question"),
    "draw": ("prompt",),
    "edit": ("image", "instruction"),
    "reconstruct": ("image",),
}
HELD_OUT: Final = 4  # every fourth request judges, the others calibrate
MAX_LINE_CHARS: Final = 4 * MAX_PROMPT_CHARS


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask the model; `line` is where it stands. `text` is the question, prompt or instruction, else empty."""

    line: int
    task: str
    text: str
    image: Path | None
    seed: int


def requests_from_file(path: Path) -> Iterator[Request]:
    """The requests one by one. Raises UsageError that names the line, or says that there is none."""
    found = False
    for number, text in _lines(path):
        if len(text) > MAX_LINE_CHARS:
            raise UsageError(f"{path}, line {number}: has {len(text)} characters, expected at most {MAX_LINE_CHARS}")
        if not text.strip():
            continue
        found = True
        yield _request(path, number, text)
    if not found:
        raise UsageError(f"{path}: is empty; expected one JSON object a line, such as {_EXAMPLE}")


_EXAMPLE = '{"task": "draw", "prompt": "a red circle"}'


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected requests, one JSON object a line")
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(4 * MAX_LINE_CHARS), b""), start=1):
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(f"{path}, line {number}: no UTF-8 at byte {error.start}") from error


def _request(path: Path, number: int, text: str) -> Request:
    where = f"{path}, line {number}"
    try:
        data = json_from_text(text)
    except ValueError as error:
        said = f"{error.msg} at character {error.pos + 1}" if isinstance(error, JSONDecodeError) else str(error)
        raise UsageError(f"{where}: no JSON: {said}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{where}: got {text.strip()[:60]!r}, expected an object such as {_EXAMPLE}")
    task = data.get("task")
    if not isinstance(task, str) or task not in TASKS:
        raise UsageError(f"{where}: task: got {task!r}, expected one of {', '.join(TASKS)}")
    keys = TASKS[task]
    unknown = sorted(set(data) - {"task", "seed", *keys})
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; the keys of {task} are {', '.join(keys)} and seed")
    for key in keys:
        if not isinstance(data.get(key), str) or not data[key].strip():
            raise UsageError(f"{where}: {key}: got {data.get(key)!r}, expected a text that is not empty")
    image = path.parent / data["image"] if "image" in keys else None
    words = next((data[key] for key in keys if key != "image"), "")
    return Request(number, task, words, image, _seed(data.get("seed", 0), where))


def _seed(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise UsageError(f"{where}: seed: got {value!r}, expected a whole number from 0 to 2**64 - 1")
    return value


def data_sha256(path: Path) -> str:
    """The hash of a request file and of all pictures that it names, in order."""
    digest = hashlib.sha256()
    for request in requests_from_file(path):
        digest.update(repr((request.task, request.text, request.seed)).encode())
        if request.image is not None and request.image.is_file():
            digest.update(request.image.read_bytes())
    return digest.hexdigest()

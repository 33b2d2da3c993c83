"""Prompts from a JSONL file: `{"prompt": "a red circle"}`, one object a line. Empty lines are skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from illume_runtime.errors import UsageError
from illume_runtime.limits import MAX_PROMPT_CHARS
from illume_runtime.typed_json import json_from_text, value_from_json

MAX_LINE_BYTES = 16 * MAX_PROMPT_CHARS
EXAMPLE = '{"prompt": "a red circle"}'


@dataclass(frozen=True, slots=True)
class PromptLine:
    """A prompt and the number of its line."""

    line: int
    prompt: str


@dataclass(frozen=True, slots=True)
class _Object:
    prompt: str


def prompts_from_file(
    path: Path, check: Callable[[str], None], on_bad_line: Callable[[str], None] | None
) -> list[PromptLine]:
    """The prompts in order; `check` raises ValueError for one that cannot be drawn.

    A bad line raises UsageError that names it and the reason; with `on_bad_line` that gets the message instead and the
    line is left out. Raises UsageError if there is no file, or no prompt in it.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected prompts, one JSON object a line, such as {EXAMPLE}")
    found: list[PromptLine] = []
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            if not line.strip():
                continue
            try:
                prompt = value_from_json(_Object, json_from_text(line.decode("utf-8")), "").prompt
                check(prompt)
            except ValueError as error:
                reason = f"no UTF-8 at byte {error.start}" if isinstance(error, UnicodeDecodeError) else error
                message = f"{path}, line {number}: {reason}"
                if on_bad_line is None:
                    raise UsageError(f"{message}; expected an object such as {EXAMPLE}") from error
                on_bad_line(message)
            else:
                found.append(PromptLine(number, prompt))
    if not found:
        raise UsageError(f"{path}: has no prompt; expected one JSON object a line, such as {EXAMPLE}")
    return found

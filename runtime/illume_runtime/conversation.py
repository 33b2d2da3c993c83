"""Messages of a chat, checked, as turns of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from illume_runtime.errors import UsageError
from illume_runtime.images import Source
from illume_runtime.prompts import AnswerTurn, Part, PictureSlot, UserTurn
from illume_runtime.results import Picture
from illume_runtime.schedule import Schedule, TokenRun

EXPECTED = "expected {'role': 'user' or 'assistant', 'content': [text, images or Pictures]}"


def conversation_from_messages(
    messages: Sequence[Mapping[str, Any]], schedules: Sequence[Schedule]
) -> tuple[list[UserTurn | AnswerTurn], list[Source]]:
    """The turns, and the images that their picture slots stand for. Raises UsageError for a malformed message."""
    turns: list[UserTurn | AnswerTurn] = []
    images: list[Source] = []
    for number, message in enumerate(messages):
        where = f"message {number}"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise UsageError(f"{where}: got {message!r:.80}, {EXPECTED}")
        content = message["content"]
        parts = [content] if isinstance(content, (str, Picture)) else content
        if not isinstance(parts, Sequence) or isinstance(parts, (bytes, bytearray)):
            raise UsageError(f"{where}: the content is a {type(content).__name__}, {EXPECTED}")
        if message["role"] == "user":
            turns.append(_user_turn(parts, schedules, images))
        elif message["role"] == "assistant":
            turns.append(_answer_turn(parts, schedules, where))
        else:
            raise UsageError(f"{where}: got the role {message['role']!r}, {EXPECTED}")
    return turns, images


def _user_turn(parts: Sequence[Any], schedules: Sequence[Schedule], images: list[Source]) -> UserTurn:
    words: list[str] = []
    pictures: list[Part] = []
    for part in parts:
        if isinstance(part, str):
            words.append(part)
        elif isinstance(part, Picture):
            pictures.append(_tokens(part, schedules))
        else:
            pictures.append(PictureSlot(len(images)))
            images.append(part)
    return UserTurn(" ".join(words), tuple(pictures))


def _answer_turn(parts: Sequence[Any], schedules: Sequence[Schedule], where: str) -> AnswerTurn:
    if len(parts) == 1 and isinstance(parts[0], str):
        return AnswerTurn(parts[0])
    if len(parts) == 1 and isinstance(parts[0], Picture):
        return AnswerTurn(_tokens(parts[0], schedules))
    raise UsageError(f"{where}: an answer is one text or one Picture, got {len(parts)} parts; {EXPECTED}")


def _tokens(picture: Picture, schedules: Sequence[Schedule]) -> TokenRun:
    """The size's tag and the ids of a drawn picture, whose grids tell its size."""
    grids = tuple(level.shape for level in picture.codes)
    schedule = next((one for one in schedules if one.grids == grids), schedules[0])
    return TokenRun((*schedule.tag, *schedule.tokens_of(picture.codes).tolist()))

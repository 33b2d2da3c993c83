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
    messages: Sequence[Mapping[str, Any]], schedule: Schedule
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
            turns.append(_user_turn(parts, schedule, images))
        elif message["role"] == "assistant":
            turns.append(_answer_turn(parts, schedule, where))
        else:
            raise UsageError(f"{where}: got the role {message['role']!r}, {EXPECTED}")
    return turns, images


def _user_turn(parts: Sequence[Any], schedule: Schedule, images: list[Source]) -> UserTurn:
    words: list[str] = []
    pictures: list[Part] = []
    for part in parts:
        if isinstance(part, str):
            words.append(part)
        elif isinstance(part, Picture):
            pictures.append(_tokens(part, schedule))
        else:
            pictures.append(PictureSlot(len(images)))
            images.append(part)
    return UserTurn(" ".join(words), tuple(pictures))


def _answer_turn(parts: Sequence[Any], schedule: Schedule, where: str) -> AnswerTurn:
    if len(parts) == 1 and isinstance(parts[0], str):
        return AnswerTurn(parts[0])
    if len(parts) == 1 and isinstance(parts[0], Picture):
        return AnswerTurn(_tokens(parts[0], schedule))
    raise UsageError(f"{where}: an answer is one text or one Picture, got {len(parts)} parts; {EXPECTED}")


def _tokens(picture: Picture, schedule: Schedule) -> TokenRun:
    return TokenRun(tuple(schedule.tokens_of(picture.codes).tolist()))

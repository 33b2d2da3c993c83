"""What `bundle.json` says of prompts: templates of control tokens, text, and slots that a request fills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ControlPart:
    """A control token of a prompt template."""

    control: str


@dataclass(frozen=True, slots=True)
class SlotPart:
    """A place of a prompt template that a request fills; `after` is text behind each of its pictures.

    `resolution` is the tag of the picture to be drawn.
    """

    slot: Literal["text", "images", "resolution"]
    after: str = ""


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of a prompt template. It is encoded in one piece with what stands beside it, up to a control or picture."""

    text: str


Template = tuple[ControlPart | SlotPart | TextPart, ...]


@dataclass(frozen=True, slots=True)
class TaskTemplates:
    """The turn of a user who asks for a picture, with and without what the user said."""

    conditional: Template
    unconditional: Template


@dataclass(frozen=True, slots=True)
class Prompts:
    """Templates of a conversation: `begin`, then for each turn `user`, the answer, `end`.

    `tasks` are turns in place of `user` for `draw`, `edit` and `reconstruct`, where a model has its own words for them.
    """

    begin: Template
    user: Template
    end: Template
    defaults: Mapping[str, str]
    unconditional_text: str
    tasks: Mapping[str, TaskTemplates] = field(default_factory=dict)

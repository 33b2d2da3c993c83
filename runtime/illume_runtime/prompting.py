"""Prompts as embeddings: token runs looked up in the table, pictures as what the vision encoder made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.prompts import Prompt
from illume_runtime.schedule import TokenRun
from illume_runtime.token_engine import Embeds, Engine
from illume_runtime.vision import Seen


def embeds_of_prompt(engine: Engine, prompt: Prompt, pictures: Sequence[Seen]) -> Embeds:
    """Embeddings [T, D] of a prompt; `pictures` are what the model sees of the images, by slot."""
    parts: list[Embeds] = []
    for part in prompt.parts:
        if isinstance(part, TokenRun):
            parts.append(engine.embed(part.ids))
            continue
        picture, used = pictures[part.index].embeds, 0
        for run in pictures[part.index].block:
            if isinstance(run, TokenRun):
                parts.append(engine.embed(run.ids))
            else:
                parts.append(picture[used : used + run.count])
                used += run.count
        if used != len(picture):
            raise InvalidBundleError(
                f"grammar: the input program embeds {used} places, the vision encoder gives {len(picture)}"
            )
    return np.concatenate(parts)


def check_context(num_prompt: int, num_new: int, max_context: int, what: str, num_places: Sequence[int] = ()) -> None:
    """Raises UsageError where a prompt and what is to follow it do not fit the context.

    `num_places` are those of the prompt that pictures take, one number each.
    """
    if num_prompt + num_new <= max_context:
        return
    room = max_context - num_new
    pictures = ""
    if num_places:
        count = f"{len(num_places)} picture{'s' * (len(num_places) > 1)}"
        pictures = f", {sum(num_places)} of them for {count},"
    if room <= 0:
        remedy = f"ask for fewer than {max_context} tokens"
    elif 2 * sum(num_places) < room:
        remedy = f"shorten the prompt to {room} tokens"
    else:
        remedy = "leave a picture out" if len(num_places) > 1 else "make the picture smaller"
    raise UsageError(
        f"the prompt has {num_prompt} tokens{pictures} and {what} needs up to {num_new}, but the context holds "
        f"{max_context}; {remedy}"
    )

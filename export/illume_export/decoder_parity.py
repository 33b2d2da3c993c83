"""The cached decoder against the language model without a cache, on the same sequences."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from illume_export.models.language_model import LanguageModel
from illume_export.parity import max_abs_error
from illume_export.stage import Run

PromptEmbeds = Callable[[int, int], Tensor]  # (row, length) -> embeddings [length, D] of a conversation

STEPS = (1, 1, 2, 1, 4, 1)  # tokens fed after the prompts: single ones, and forced tokens with the one before them


def decoder_errors(model: LanguageModel, prompt_embeds: PromptEmbeds, run: Run) -> list[float]:
    """Two calls' worth of rows: rows of different length in one batch, and one row with a full-length cache.

    The cache starts as large finite noise: a slot that should be masked and is not cannot go unseen.
    """
    longest = model.config.max_context
    lengths = [max(1, min(base, longest - sum(STEPS))) for base in (110, 70, 9)]
    small = min(longest, max(lengths) + sum(STEPS) + 3)
    return [
        *_batch_errors(model, prompt_embeds, run, lengths, small),
        *_batch_errors(model, prompt_embeds, run, lengths[1:2], longest),
    ]


def _batch_errors(
    model: LanguageModel, prompt_embeds: PromptEmbeds, run: Run, lengths: list[int], num_slots: int
) -> list[float]:
    c = model.config
    B = len(lengths)
    sequences = torch.zeros(B, max(lengths) + sum(STEPS), c.hidden_size)
    expected = []
    for row, length in enumerate(lengths):
        embeds = prompt_embeds(row, length + sum(STEPS))
        sequences[row, : len(embeds)] = embeds
        with torch.no_grad():
            expected.append(model(embeds[None])[0].numpy())
    noise = torch.Generator().manual_seed(1)
    shape = (B, c.num_kv_heads, num_slots, c.head_dim)
    cache = {
        f"{kind}_cache_{i}": (10 * torch.randn(shape, generator=noise)).numpy()
        for i in range(c.num_layers)
        for kind in ("key", "value")
    }
    errors = [0.0] * B
    bounds = [0, *np.cumsum([0, *STEPS]).tolist()]
    for step, (begin, end) in enumerate(pairwise(bounds)):
        prefill = step == 0  # all rows from 0 to the longest prompt; afterwards each row goes on from its own end
        starts = [0] * B if prefill else [length + begin for length in lengths]
        count = max(lengths) if prefill else end - begin
        positions = np.array(starts, dtype=np.int64)[:, None] + np.arange(count)
        feeds = {
            "inputs_embeds": np.take_along_axis(sequences.numpy(), positions[:, :, None], axis=1),
            "positions": positions,
        }
        outputs = run({**feeds, **cache})
        cache = {name: outputs[f"{name}_out"] for name in cache}
        for row, length in enumerate(lengths):
            valid = length if prefill else count
            want = expected[row][starts[row] : starts[row] + valid]
            errors[row] = float(np.maximum(errors[row], max_abs_error(outputs["hidden"][row, :valid], want)))
    return errors

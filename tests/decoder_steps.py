"""A decoder with its cache, stepped through prompts and tokens of rows of different lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

STEPS = ((0, 11), (0, 3), (0, 1), (4, 2), (0, 1), (0, 5))  # what is taken back of the first row, tokens appended
STARTS = (0, 9, 3)


def decoder_steps(session: Any, num_slots: int = 64) -> list[np.ndarray]:
    """Hidden states of every step and the caches after the last one, of a `Session` of a decoder bound in place.

    Slots before a row's first position hold noise, those behind its end large noise that no token may see.
    """
    rng = np.random.default_rng(0)
    inputs, hidden = session.spec.inputs, session.spec.outputs[0]
    B, D = len(STARTS), hidden.shape[2]
    ends = np.array(STARTS)
    caches = {}
    for port in inputs[2:]:
        caches[port.name] = rng.standard_normal((B, port.shape[1], num_slots, port.shape[3])).astype(np.float32)
        for row, end in zip(caches[port.name], ends, strict=True):
            row[:, end:] *= 50
    found = []
    for back, new in STEPS:
        ends[0] -= back
        states = np.zeros((B, new, D), np.float32)
        embeds = 0.3 * rng.standard_normal((B, new, D)).astype(np.float32)
        positions = ends[:, None] + np.arange(new)
        outputs = {hidden.name: states, **{f"{name}_out": cache for name, cache in caches.items()}}
        session.bind({inputs[0].name: embeds, inputs[1].name: positions, **caches}, outputs).run()
        found.append(states)
        ends += new
    return [*found, *caches.values()]

"""The repetition penalty (Keskar et al., "CTRL", 2019, section 4.1) with the semantics of Hugging Face transformers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def repetition_penalty(
    logits: NDArray[np.float32], seen_ids: NDArray[np.int64], penalty: float | NDArray[np.float32]
) -> NDArray[np.float32]:
    """New logits [n] or [B,n]: those of seen ids divided by the penalty where positive, multiplied where negative.

    seen_ids int64, [T] or [B,T] like logits: columns of logits. An id seen twice counts once, and ids outside [0, n)
    are passed over, so -1 pads. penalty > 0, a scalar or [B]; 1 changes nothing. It belongs on raw logits, before
    guidance and temperature, because it is not invariant to a shift. ValueError where shapes or the penalty do not fit.
    """
    seen_ids = np.asarray(seen_ids, dtype=np.int64)
    if logits.ndim not in (1, 2) or seen_ids.ndim != logits.ndim or seen_ids.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"repetition_penalty: logits {logits.shape} and seen_ids {seen_ids.shape}, expected [B,n] and [B,T], or "
            "[n] and [T]; pad the shorter rows of seen_ids with -1"
        )
    factor = np.asarray(penalty, dtype=np.float32)[..., None]
    if not (factor > 0).all():
        raise ValueError(f"repetition_penalty: got penalty={penalty}, expected > 0; use 1 to switch it off")
    num_tokens = logits.shape[-1]
    seen = np.zeros((*logits.shape[:-1], num_tokens + 1), dtype=np.bool_)
    columns = np.where((seen_ids < 0) | (seen_ids >= num_tokens), num_tokens, seen_ids)
    np.put_along_axis(seen, columns, True, axis=-1)
    result: NDArray[np.float32] = np.where(
        seen[..., :-1], np.where(logits < 0, logits * factor, logits / factor), logits
    )
    return result

"""The slow float64 reference: temperature, top-k (ties kept), top-p by a stable full sort, min-p; one row at a time."""

import numpy as np


def reference_probabilities(logits, temperature, top_k, top_p, min_p):
    """Probabilities [n] float64 of logits [n]. Top-p keeps a token while the mass before it is below top_p."""
    x = logits.astype(np.float64) / float(np.float32(temperature))
    x[np.isnan(x)] = -np.inf
    if np.isneginf(x).all():
        return np.zeros(len(x))
    if 0 < top_k < len(x):
        x = np.where(x >= np.sort(x)[::-1][top_k - 1], x, -np.inf)
    p = np.where(x == x.max(), 1.0, np.exp(x - x.max())) if np.isposinf(x.max()) else np.exp(x - x.max())
    p /= p.sum()
    if top_p < 1:
        order = np.argsort(-x, kind="stable")
        mass = np.cumsum(p[order])
        kept = np.zeros(len(x), dtype=bool)
        kept[order] = mass - p[order] < float(np.float32(top_p))
        p = np.where(kept, p, 0.0)
    p = np.where(p >= float(np.float32(min_p)) * p.max(), p, 0.0)
    return p / p.sum()


def reference_guided(cond, uncond, guidance):
    """Scores [n] float64."""
    cond, uncond = cond.astype(np.float64), uncond.astype(np.float64)
    return uncond + float(np.float32(guidance)) * (cond - uncond)

"""How far one array is from another: figures for tensors, choices and pictures."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_DB: Final = 200.0  # of equal arrays: JSON knows no infinity
SSIM_SIGMA: Final = 1.5  # Wang et al., 2004: a Gaussian window of 11 x 11
SSIM_RADIUS: Final = 5


class SignalNoise:
    """Sums over any number of arrays, and what follows from them."""

    __slots__ = ("cross", "noise", "other", "signal")

    def __init__(self) -> None:
        self.signal = self.other = self.cross = self.noise = 0.0

    def add(self, reference: NDArray[np.floating], got: NDArray[np.floating]) -> None:
        """Count one pair of equal shapes."""
        a, b = reference.astype(np.float64).ravel(), got.astype(np.float64).ravel()
        self.signal += float(a @ a)
        self.other += float(b @ b)
        self.cross += float(a @ b)
        self.noise += float(np.square(a - b).sum())

    @property
    def sqnr_db(self) -> float:
        """Power of the reference over the power of the difference, in dB, at most MAX_DB."""
        return decibels(self.signal, self.noise)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 1 where both are zero."""
        if self.noise == 0.0:
            return 1.0
        return float(self.cross / max(np.sqrt(self.signal) * np.sqrt(self.other), 1e-300))


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) within +-MAX_DB."""
    if noise == 0.0:
        return MAX_DB
    return float(np.clip(10.0 * np.log10(max(signal, 1e-300) / noise), -MAX_DB, MAX_DB))


def divergence(reference: NDArray[np.float32], got: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(reference || got) [B] in nats of the distributions of logits [B, n]."""
    p, q = _log_softmax(reference), _log_softmax(got)
    found: NDArray[np.float64] = np.maximum((np.exp(p) * (p - q)).sum(axis=-1), 0.0)
    return found


def psnr_db(reference: NDArray[np.uint8], got: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of pictures [Y, X, 3], at most MAX_DB."""
    error = np.square(reference.astype(np.float64) - got.astype(np.float64)).mean()
    return decibels(255.0**2, float(error))


def ssim(reference: NDArray[np.uint8], got: NDArray[np.uint8]) -> float:
    """Structural similarity (Wang et al., 2004) of the luminance of pictures [Y, X, 3]."""
    a, b = (picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) for picture in (reference, got))
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a = _blurred(a * a) - mean_a**2
    var_b = _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * structure).mean())


def _blurred(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convolved with the window along both axes, where it fits."""
    offsets = np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1)
    window = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    window /= window.sum()
    for axis in (0, 1):
        size = min(len(window), x.shape[axis])
        part = window[:size] / window[:size].sum()
        x = np.lib.stride_tricks.sliding_window_view(x, size, axis=axis) @ part
    return x


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    shifted: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return shifted

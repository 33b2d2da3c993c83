"""Resizing matrices of the runtime against PyTorch, which resized while the models were trained."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from illume_runtime.resizing import antialiased, interpolated

CASES = [(256, 252), (512, 364), (16, 28), (300, 28), (9, 16), (26, 48), (36, 64), (5, 5)]


@pytest.mark.parametrize(("size", "new_size"), CASES)
@pytest.mark.parametrize("matrix", [antialiased, interpolated])
def test_matrices_are_those_of_pytorch(matrix: object, size: int, new_size: int) -> None:
    identity = torch.eye(size)[None, None]
    expected = F.interpolate(identity, size=(new_size, size), mode="bicubic", antialias=matrix is antialiased)[0, 0]
    got = torch.tensor(matrix(size, new_size))  # type: ignore[operator]
    # Both take distances to centres in float32, whose last place is 3e-5 near 512; the kernels' slope is below 1.
    assert float((got - expected).abs().max()) < 5e-6

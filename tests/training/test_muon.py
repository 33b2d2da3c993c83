"""Muon against an exact singular value decomposition, and against a plain reading of its rule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from illume_training.muon import Muon, hidden_matrices, orthogonalized


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (16, 16), (40, 12), (64, 65)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    result = orthogonalized(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(result)
    assert result.shape == matrix.shape
    assert values.max() < 1.25
    # The quintic lifts a small value by 3.4445 a round: 5 rounds bring what is above 1/60 of the norm to 0.65 and more.
    large = torch.linalg.svdvals(matrix) > matrix.norm() / 60
    diagonal = left.T @ result @ right.T
    assert (diagonal.diagonal()[large] > 0.65).all()
    assert (diagonal - torch.diag(diagonal.diagonal())).abs().max() < 1e-4


def test_scale_does_not_matter() -> None:
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalized(1000 * matrix), orthogonalized(matrix), atol=1e-4, rtol=0)


def test_zero_stays_zero() -> None:
    assert not orthogonalized(torch.zeros(4, 5)).any()


def test_two_steps_follow_the_rule() -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(6, 4, generator=generator)
    gradients = [torch.randn(6, 4, generator=generator) for _ in range(2)]
    weight = nn.Parameter(start.clone())
    muon = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, momentum = start.clone(), torch.zeros(6, 4)
    for gradient in gradients:
        weight.grad = gradient.clone()
        muon.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        update = orthogonalized(0.1 * gradient + 0.9 * momentum)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * (6 / 4) ** 0.5 * update
    torch.testing.assert_close(weight.detach(), expected, atol=1e-6, rtol=1e-6)


def test_only_trained_matrices_inside_stacks_are_hidden() -> None:
    block = nn.ModuleDict(
        {"up": nn.Linear(3, 5), "frozen": nn.Linear(3, 5).requires_grad_(False), "norm": nn.LayerNorm(3)}
    )
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "blocks": nn.ModuleList([block]), "head": nn.Linear(3, 4)})
    assert list(hidden_matrices(model)) == ["blocks.0.up.weight"]

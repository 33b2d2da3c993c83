"""Muon (Jordan et al., 2024): momentum whose matrix is replaced by the nearest orthogonal one.

`torch.optim.Muon` iterates in bfloat16, which CPUs without it in hardware emulate thirty times slower than float32:
so the iteration stands here, in the precision that the device has.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic that pushes singular values towards 1 in five rounds


class Muon(torch.optim.Optimizer):
    """Updates matrices [out, in] by orthogonalised Nesterov momentum; for hidden layers, not embeddings or heads."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        products: torch.dtype = torch.float32,
    ) -> None:
        self.products = products  # in which the iteration multiplies
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum: Tensor = state["momentum"]
                momentum.lerp_(p.grad, 1.0 - group["momentum"])
                update = orthogonalized(p.grad.lerp(momentum, group["momentum"]), self.products)
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1.0 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * scale)


def orthogonalized(matrix: Tensor, products: torch.dtype = torch.float32, rounds: int = 5) -> Tensor:
    """A matrix with the singular vectors of `matrix` [m, n] and singular values near 1 (0.7 to 1.2)."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix.float() if wide else matrix.float().T
    x = (x / (x.norm() + 1e-7)).to(products)
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x if wide else x.T
    return result.to(matrix.dtype)


def hidden_matrices(module: nn.Module) -> dict[str, Tensor]:
    """Trained weights [out, in] of the linear layers inside stacks of blocks: what Muon is for."""
    return {
        f"{name}.weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and layer.weight.requires_grad
        and {"blocks", "layers"} & set(name.split(".")[:-1])
    }

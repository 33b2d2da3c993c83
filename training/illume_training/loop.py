"""The training loop: seeded, resumable after a kill at any point, the same on CPU and GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from illume_training.muon import Muon, hidden_matrices
from illume_training.precision import products_in

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length and learning rate of one training phase."""

    steps: int
    batch_size: int
    learning_rate: float
    muon_rate: float = 0.0  # learning rate of Muon for the matrices of hidden layers; 0: AdamW for all
    warmup: int = 100
    final: float = 0.02  # share of the learning rates at the last step; 1: constant
    weight_decay: float = 0.01
    ema: float = 0.0  # decay of the averaged weights; 0: none
    save_every_s: float = 60.0

    def share(self, step: int) -> float:
        """Share of the learning rates at `step`: linear warm-up, then a cosine down to `final`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True, slots=True)
class Phase(Generic[Batch]):
    """One training phase: what to train, on what, by which loss."""

    name: str
    module: nn.Module  # its parameters that require gradients are trained; all of it is saved
    schedule: Schedule
    batch: Callable[[int], Batch]  # of a step; must depend on the step alone
    loss: Callable[[Batch, int], tuple[Tensor, dict[str, float]]]
    products: torch.dtype = torch.float32  # in which matrix products are computed


def run_phase(phase: Phase[Batch], folder: Path, *, device: torch.device, log: Callable[[str], None] = print) -> None:
    """Trains `phase.module` in place, or loads it where a finished or a partial run lies in `folder`."""
    final = folder / f"{phase.name}.safetensors"
    if final.exists():
        phase.module.load_state_dict(load_file(final), strict=True)
        log(f"{phase.name}: already trained, loaded {final}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{phase.name}.partial.pt"
    module, schedule = phase.module.to(device), phase.schedule
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizers = _optimizers(module, trained, schedule, phase.products)
    average: dict[str, Tensor] = {name: p.detach().clone() for name, p in trained.items()} if schedule.ema else {}
    start = 0
    if partial.exists():
        state = torch.load(partial, map_location=device, weights_only=True)
        module.load_state_dict(state["module"])
        for optimizer, saved_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_state)
        average, start = state["average"], int(state["step"])
        log(f"{phase.name}: resumed at step {start}")

    def save(step: int) -> None:
        state = {
            "module": module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "average": average,
            "step": step,
        }
        temporary = partial.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(partial)

    saved = time.monotonic()
    module.train()
    bar = tqdm(total=schedule.steps, initial=start, desc=phase.name, mininterval=5.0, smoothing=0.05)
    for step, batch in _prefetched(phase.batch, start, schedule.steps):
        torch.manual_seed(step)
        with products_in(phase.products, device):
            loss, figures = phase.loss(batch, step)
        for p in trained.values():
            p.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * schedule.share(step)
            optimizer.step()
        if average:
            decay = min(schedule.ema, (step + 1) / (step + 10))
            with torch.no_grad():
                for name, p in trained.items():
                    average[name].lerp_(p, 1.0 - decay)
        bar.update()
        if step % 20 == 0:
            bar.set_postfix({"loss": f"{loss.item():.4f}", **{k: f"{v:.4f}" for k, v in figures.items()}})
        if time.monotonic() - saved > schedule.save_every_s:
            save(step + 1)
            saved = time.monotonic()
    bar.close()
    with torch.no_grad():
        for name, mean in average.items():
            trained[name].copy_(mean)
    temporary = final.with_suffix(".tmp")
    save_file({name: t.contiguous().cpu() for name, t in module.state_dict().items()}, temporary)
    temporary.replace(final)
    partial.unlink(missing_ok=True)


def _optimizers(
    module: nn.Module, trained: dict[str, nn.Parameter], schedule: Schedule, products: torch.dtype
) -> list[torch.optim.Optimizer]:
    """AdamW for all that is trained; where the schedule names a rate for Muon, that for hidden matrices instead."""
    matrices = hidden_matrices(module) if schedule.muon_rate else {}
    rest = [p for name, p in trained.items() if name not in matrices]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": schedule.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        rates = {"lr": schedule.muon_rate, "weight_decay": schedule.weight_decay}
        optimizers.append(Muon(matrices.values(), **rates, products=products))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _prefetched(make: Callable[[int], Batch], start: int, end: int) -> Iterator[tuple[int, Batch]]:
    """Batches of the steps from start to end, the next one made while the present one is used."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, start) if start < end else None
        for step in range(start, end):
            assert ahead is not None
            batch = ahead.result()
            if step + 1 < end:
                ahead = pool.submit(make, step + 1)
            yield step, batch

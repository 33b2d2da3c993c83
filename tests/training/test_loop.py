"""The loop: killed anywhere and started again, it ends in the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from illume_training import loop
from illume_training.loop import Phase, Schedule, run_phase

SCHEDULE = Schedule(
    steps=12, batch_size=3, learning_rate=0.05, muon_rate=0.02, warmup=3, final=0.1, weight_decay=0.1, ema=0.9
)


class Killed(BaseException):
    """What no `except Exception` stops, as a kill is not stopped."""


class Net(nn.Module):
    """A hidden layer for Muon, a head for AdamW, dropout for the random state, a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 6)])
        self.head = nn.Linear(6, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        hidden = nn.functional.dropout(self.blocks[0](x).tanh(), 0.3)
        out: Tensor = self.head(hidden)
        return out


def make_phase(schedule: Schedule = SCHEDULE, kill_at: int | None = None) -> Phase[Tensor]:
    torch.manual_seed(0)
    net = Net()

    def batch(step: int) -> Tensor:
        return torch.randn(schedule.batch_size, 4, generator=torch.Generator().manual_seed(step))

    def loss(data: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        if step == kill_at:
            raise Killed
        return (net(data) - data.sum(dim=1, keepdim=True)).square().mean(), {}

    return Phase("phase", net, schedule, batch, loss)


def weights(phase: Phase[Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in phase.module.state_dict().items()}


def run(phase: Phase[Tensor], folder: Path, log: Callable[[str], None] = lambda line: None) -> dict[str, Tensor]:
    run_phase(phase, folder, device=torch.device("cpu"), log=log)
    return weights(phase)


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by a second whenever it is read: progress is saved every fourth step."""
    seconds = iter(range(1_000_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(seconds)))


@pytest.mark.parametrize("muon_rate", [0.0, 0.02], ids=["adamw", "muon"])
@pytest.mark.parametrize("ema", [0.0, 0.9], ids=["last", "average"])
@pytest.mark.parametrize("kill_at", [0, 1, 5, 8, 11])
def test_a_killed_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, clock: None, kill_at: int, ema: float, muon_rate: float
) -> None:
    schedule = replace(SCHEDULE, ema=ema, muon_rate=muon_rate, save_every_s=2.5)
    expected = run(make_phase(schedule), tmp_path / "whole")
    with pytest.raises(Killed):
        run(make_phase(schedule, kill_at), tmp_path / "killed")
    lines: list[str] = []
    assert_equal(run(make_phase(schedule), tmp_path / "killed", lines.append), expected)
    assert len(lines) == (kill_at >= 4)  # it was resumed where something had been saved
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["phase.safetensors"]


def test_a_run_killed_while_it_saves_goes_on_from_the_save_before(
    tmp_path: Path, clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(SCHEDULE, save_every_s=2.5)
    expected = run(make_phase(schedule), tmp_path / "whole")
    original, saves = torch.save, []

    def save(state: object, path: Path) -> None:
        saves.append(path)
        if len(saves) == 2:
            Path(path).write_bytes(b"half")
            raise Killed
        original(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(loop.torch, "save", save)
        with pytest.raises(Killed):
            run(make_phase(schedule), tmp_path / "killed")
    assert_equal(run(make_phase(schedule), tmp_path / "killed"), expected)


def test_a_finished_phase_is_loaded_and_not_trained(tmp_path: Path) -> None:
    expected = run(make_phase(), tmp_path)
    again = make_phase(kill_at=0)
    assert_equal(run(again, tmp_path), expected)
    assert_equal(load_file(tmp_path / "phase.safetensors"), expected)


def test_another_seed_of_the_batches_gives_other_weights(tmp_path: Path) -> None:
    expected = run(make_phase(), tmp_path / "a")
    phase = make_phase()
    other = replace(phase, batch=lambda step: phase.batch(step + 1))
    assert not torch.equal(run(other, tmp_path / "b")["head.weight"], expected["head.weight"])


def test_what_needs_no_gradient_stays(tmp_path: Path) -> None:
    phase = make_phase()
    before = weights(phase)
    after = run(phase, tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"blocks.0.weight", "blocks.0.bias", "head.weight", "head.bias", "seen"}


def test_the_rate_warms_up_and_falls_to_its_end() -> None:
    schedule = Schedule(steps=110, batch_size=1, learning_rate=1.0, warmup=10, final=0.2)
    assert [schedule.share(step) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert schedule.share(60) == pytest.approx(0.6)
    assert schedule.share(110) == pytest.approx(0.2)
    shares = [schedule.share(step) for step in range(10, 110)]
    assert shares == sorted(shares, reverse=True)
    assert replace(schedule, final=1.0).share(77) == 1.0

"""What is wanted of the GPU, and whether it was got. Plain arithmetic on the results' entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.gpu.entry import ABSENT, FAILED, MEASURED, OURS, SKIPPED, Entry

SAMPLE_US = {"pixel": 8.0, "semantic": 6.0}
SAMPLING_SHARE = 0.03
FLOOR_RATIO = 1.35
SPEEDUP = 2.2
JOINT = f"{OURS} + torch layers"
COMPILED = "torch.compile"
TOKENS = "tokens"
KERNELS = (
    "sample", "sample_group", "sample_gumbel", "head_gemv", "gather_embedding", "guidance_step", "advance_step"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """`met` is None where it was not measured."""

    name: str
    wanted: str
    got: float | None
    met: bool | None
    note: str = ""


def targets(entries: Sequence[Entry], model: str | None) -> list[Target]:
    """All of them; `model` is the one whose loops were timed."""
    found = [exactness(entries)]
    for segment, limit in SAMPLE_US.items():
        one = measured(entries, f"sample {segment} B=1", OURS)
        got = None if one is None or not one.is_checked else one.median
        found.append(at_most(f"sample, {segment} segment, batch 1, us", limit, got))
    loop = our_loop(entries)
    note = "" if loop is None else loop.side
    if loop is not None and loop.facts.get("tokens_timed") != loop.facts.get("tokens_of"):
        note += ", a part of a picture"
    found.append(sampling_share(entries, loop))
    of_floor = at_most(
        f"token loop of {model or '3B'}, times its floor", FLOOR_RATIO, loop.ratio if loop else None, note
    )
    found.append(of_floor)
    peer = measured(entries, TOKENS, COMPILED)
    speedup = peer.median / loop.median if peer and loop and peer.median and loop.median else None
    name = f"token loop of {model or '3B'}, times as fast as the compiled reference"
    met = None if speedup is None else speedup >= SPEEDUP
    found.append(Target(name, f">= {SPEEDUP}", speedup, met, note))
    return found


def at_most(name: str, limit: float, got: float | None, note: str = "") -> Target:
    """Met where the figure is no larger."""
    return Target(name, f"<= {limit:g}", got, None if got is None else got <= limit, note)


def exactness(entries: Iterable[Entry]) -> Target:
    """Kernels that equal the definition on this GPU; met where all of them were compared and did."""
    kernels = [entry for entry in entries if entry.side == OURS and is_kernel(entry.name)]
    equal = sum(entry.is_checked for entry in kernels)
    differ = [entry.name for entry in kernels if entry.status == FAILED and entry.exit_code == 6]
    left = [entry.name for entry in kernels if entry.status in (FAILED, SKIPPED, ABSENT) and entry.name not in differ]
    met = False if differ else None if left or not kernels else equal == len(kernels)
    note = f"differ: {', '.join(differ)}" if differ else f"not compared: {', '.join(left)}" if left else ""
    return Target("kernels bit-equal to the oracle before they are timed", f"all {len(kernels)}", equal, met, note)


def is_kernel(name: str) -> bool:
    """Whether an entry is of one of our kernels."""
    return name.split(" ")[0] in KERNELS


def measured(entries: Iterable[Entry], name: str, side: str) -> Entry | None:
    """The entry with a time."""
    of_both = (entry for entry in entries if (entry.name, entry.side, entry.status) == (name, side, MEASURED))
    return next((entry for entry in of_both if entry.median is not None), None)


def our_loop(entries: Sequence[Entry]) -> Entry | None:
    """Our token loop whose model is PyTorch's too: the runtime's, else our kernels around PyTorch's layers."""
    sides = (f"{OURS} tensorrt", f"{OURS} cuda")
    loops = (measured(entries, TOKENS, side) for side in sides)
    of_model = [one for one in loops if one is not None and one.facts.get("is_same_model")]
    return of_model[0] if of_model else measured(entries, TOKENS, JOINT)


def sampling_share(entries: Sequence[Entry], loop: Entry | None) -> Target:
    """The sampler's part of a decode step of the pixel segment, where most steps are."""
    name = "sampling, share of a decode step"
    sample = measured(entries, "sample pixel B=1", OURS)
    step_ms = loop.facts.get("step_ms") if loop else None
    if sample is None or sample.median is None or loop is None or not step_ms:
        return at_most(name, SAMPLING_SHARE, None)
    return at_most(name, SAMPLING_SHARE, sample.median / (step_ms * 1e3), loop.side)

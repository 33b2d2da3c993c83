"""A picture's loops around a model in PyTorch: ours with its layers, the compiled one, and the public reference's.

Long ones are timed over a part of the picture; `tokens_timed` and `tokens_of` say so, and the time is that of the part
times their ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.gpu.bench import Bench, peer_module
from benchmarks.gpu.entry import FAILED, Entry, Job
from benchmarks.gpu.targets import COMPILED, JOINT, TOKENS

SECTION, DIFFUSION = "model", "diffusion of the model"
NUM_STEPS = 20  # of the diffusion where no bundle says how many
STATIC_TOKENS_PER_REFERENCE = 4  # a step of the compiled loop takes a fraction of an eager one


def token_jobs() -> list[Job]:
    """Ours first."""
    return [
        Job(TOKENS, SECTION, JOINT, 60, 200, joint_tokens),
        Job(TOKENS, SECTION, COMPILED, 40, 200, static_tokens),
        Job(TOKENS, SECTION, "torch", 25, 120, reference_tokens),
    ]


def diffusion_jobs() -> list[Job]:
    """The denoiser as it is, then compiled."""
    return [
        Job("diffusion", DIFFUSION, "torch", 25, 120, partial(diffusion, "torch")),
        Job("diffusion", DIFFUSION, COMPILED, 100, 240, partial(diffusion, COMPILED)),
    ]


def torch_model(bench: Bench) -> tuple[Any, str]:
    """The model and its device: bfloat16 on a GPU; on a CPU, for tests, float32."""
    from benchmarks.gpu import torch_loops

    device = getattr(bench.options, "model_device", "cuda")
    torch = bench.torch() if device == "cuda" else peer_module("torch")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if "model" not in bench.kept:
        bench.kept["model"] = torch_loops.model_by_name(bench.options.model, device, dtype)
        if device == "cuda":
            torch.cuda.synchronize()  # other streams do not wait for the one that made it
    return bench.kept["model"], device


def joint_tokens(bench: Bench) -> Iterator[Entry]:
    """Our kernels and our schedule around compiled layers, whole pictures; codes are compared with nothing."""
    import torch

    from benchmarks.gpu.capture import captured
    from benchmarks.gpu.joint_loop import JointLoop
    from benchmarks.gpu.static_decoder import layer_step

    model, device = torch_model(bench)
    layer: Any = layer_step
    made, capture = None, None
    on_stream: AbstractContextManager[Any] = nullcontext()
    if device == "cuda":
        stream = torch.cuda.ExternalStream(bench.gpu.stream.handle)  # type: ignore[no-untyped-call]
        on_stream = torch.cuda.stream(stream)
        layer = made = OrPlain(torch.compile(layer_step, dynamic=False, fullgraph=True), layer_step)

        def capture(work: Callable[[], Any]) -> Callable[[], Any]:
            graph = torch.cuda.CUDAGraph()
            captured(graph, work, stream)
            return graph.replay

    with on_stream:
        loop = JointLoop(bench.gpu, model, layer, *(() if capture is None else (capture,)))
        loop.prepare()
        watch = Stopwatch(device)
        times = []
        for i in range(1 + bench.sizes.pictures):
            codes = loop.codes(watch.start)
            times.append(watch.stop_ms())
            if codes.min() < 0:
                raise RuntimeError(f"no token can be drawn at step {int((codes < 0).argmax())}")
            if i and bench.left_s < 3 * times[-1] / 1e3:
                break
    times = times[1:]
    count, num_steps = len(model.grammar), len(loop.kinds)
    floor = loop.floor_ms(bench.limits.bytes_per_s) if bench.limits else None
    facts = {
        "tokens_timed": count,
        "tokens_of": count,
        "num_steps": num_steps,
        "step_ms": sorted(times)[len(times) // 2] / num_steps,
    }
    note = f"{model.name}, one picture"
    if made is not None and made.reason:
        note += f"; its layers are not compiled: {made.reason}"
    yield Entry.of_times(TOKENS, JOINT, times, unit="ms", floor=floor, note=note, facts=facts)


def static_tokens(bench: Bench) -> Iterator[Entry]:
    """The public reference made fast with `torch.compile`: a fixed cache, one CUDA graph a step where it can be."""
    import torch

    from benchmarks.gpu import torch_loops
    from benchmarks.gpu.capture import captured_step
    from benchmarks.gpu.static_decoder import layer_step

    model, device = torch_model(bench)
    num_tokens = STATIC_TOKENS_PER_REFERENCE * bench.sizes.reference_tokens
    compiled: Any = partial(torch.compile, dynamic=False, fullgraph=True)
    choose = torch_loops.drawn_by_race
    if device != "cuda":
        loop = torch_loops.StaticLoop(model, choose, layer_step)
        yield part_of_picture(COMPILED, loop.codes, num_tokens, model, device, bench)
        return
    layer = compiled(layer_step)
    try:
        loop = torch_loops.StaticLoop(model, choose, layer, compiled, captured_step)
        entry = part_of_picture(COMPILED, loop.codes, num_tokens, model, device, bench)
    except Exception as error:
        said = f"cannot be captured: {type(error).__name__}: {error}"
        yield Job(TOKENS, SECTION, f"{COMPILED} graph", 0, 0, static_tokens).not_done(FAILED, said, 8)
        loop = torch_loops.StaticLoop(model, choose, layer, compiled)
        entry = part_of_picture(COMPILED, loop.codes, num_tokens, model, device, bench)
    yield entry


def reference_tokens(bench: Bench) -> Iterator[Entry]:
    """The public reference as it is: eager, two passes a step, the whole head, forced tokens one by one."""
    from benchmarks.gpu import torch_loops

    model, device = torch_model(bench)

    def codes(num_tokens: int, on_prefilled: Callable[[], None]) -> object:
        waiting = [on_prefilled]

        def choose(scores: Any) -> Any:
            while waiting:
                waiting.pop()()
            return torch_loops.drawn_from_filters(scores)

        return torch_loops.reference_codes(model, choose, num_tokens)

    yield part_of_picture("torch", codes, bench.sizes.reference_tokens, model, device, bench)


def part_of_picture(
    side: str, codes: Callable[[int, Callable[[], None]], object], wanted: int, model: Any, device: str, bench: Bench
) -> Entry:
    """The time of a picture by that of its first tokens behind the prefill."""
    of, watch = len(model.grammar), Stopwatch(device)
    timed = min(max(wanted, 1 + first_code(model.grammar)), of)
    times = []
    for i in range(1 + bench.sizes.pictures):
        codes(timed, watch.start)
        times.append(watch.stop_ms() * of / timed)
        if i and bench.left_s < 3 * times[-1] / 1e3 * timed / of:
            break
    note = (
        f"{model.name}, {timed} of {of} tokens timed, then multiplied" if timed < of else f"{model.name}, one picture"
    )
    facts = {"tokens_timed": timed, "tokens_of": of, "step_ms": sorted(times[1:])[len(times[1:]) // 2] / of}
    return Entry.of_times(TOKENS, side, times[1:], unit="ms", note=note, facts=facts)


def first_code(grammar: Any) -> int:
    """The place of the first token that is a choice."""
    return next(i for i, (start, end) in enumerate(grammar) if end - start > 1)


def diffusion(side: str, bench: Bench) -> Iterator[Entry]:
    """A picture's diffusion by the time of a few of its steps."""
    import torch

    from benchmarks.gpu import torch_loops

    model, device = torch_model(bench)
    of = num_steps_of(bench)
    timed = min(bench.sizes.reference_steps, of)
    denoise = model.denoise
    if side == COMPILED and device == "cuda":
        compiled: Any = partial(torch.compile, dynamic=False, mode="reduce-overhead")
        denoise = model.denoise_through(compiled)
    watch, times = Stopwatch(device), []
    for _ in range(1 + bench.sizes.pictures):
        watch.start()
        torch_loops.denoised(model, denoise, timed)
        times.append(watch.stop_ms() * of / timed)
    note = f"{model.name}, {timed} of {of} steps timed, then multiplied" if timed < of else model.name
    facts = {"steps_timed": timed, "steps_of": of}
    yield Entry.of_times("diffusion", side, times[1:], unit="ms", note=note, facts=facts)


def num_steps_of(bench: Bench) -> int:
    """Of the bundle's diffusion, where there is one."""
    if bench.options.bundle is None:
        return NUM_STEPS
    from illume_runtime.bundle import Bundle

    return Bundle.open(bench.options.bundle).scheduler.default_steps


class OrPlain:
    """A compiled function; from where the compiler fails on, the plain one, and `reason`."""

    def __init__(self, compiled: Callable[..., Any], plain: Callable[..., Any]) -> None:
        self._compiled, self._plain, self.reason = compiled, plain, ""

    def __call__(self, *given: Any) -> Any:
        """What both give."""
        if not self.reason:
            try:
                return self._compiled(*given)
            except Exception as error:
                self.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        return self._plain(*given)


class Stopwatch:
    """From a start to a stop, at both of which the device has done all its work."""

    def __init__(self, device: str) -> None:
        self._is_cuda, self._start = device == "cuda", 0.0

    def start(self) -> None:
        """Now, once the device is done."""
        self._wait()
        self._start = perf_counter()

    def stop_ms(self) -> float:
        """Milliseconds since the start, once the device is done."""
        self._wait()
        return (perf_counter() - self._start) * 1e3

    def _wait(self) -> None:
        if self._is_cuda:
            import torch

            torch.cuda.synchronize()

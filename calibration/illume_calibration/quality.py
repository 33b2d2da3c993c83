"""The quality gate: a quantized bundle beside its float one, on the same inputs, tokens and noise.

| figure | on what |
|---|---|
| SQNR and cosine per stage | the same inputs of the stage, sampled from the float run |
| SQNR and cosine per layer | the same inputs of the stage, the output of each of its layers |
| agreement and KL per segment | the float run's tokens before, each bundle's own logits behind them |
| PSNR and SSIM | the pictures of the same codes and the same noise |
| free agreement | both bundles by themselves with the same seeds |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_calibration.comparison import SignalNoise, divergence, psnr_db, ssim
from illume_calibration.forcing import ForcedPipeline, Run
from illume_calibration.graph_file import graph_from_stage, save_graph, with_taps
from illume_calibration.layers import layers_of
from illume_calibration.requests import Request
from illume_calibration.reservoir import Call, Reservoir
from illume_calibration.running import Outputs, Skipped, WatchedSession, answer_of
from illume_runtime.bundle import Bundle
from illume_runtime.errors import UsageError
from illume_runtime.pipeline import Picture, Pipeline
from illume_runtime.quantization import Bars, FreeQuality, PictureQuality, Quality, SegmentQuality, StageQuality
from illume_runtime.session import Arrays

OnStep = Callable[[str, int, int], None]
CACHE: Final = "_cache_"  # in the names of outputs that only repeat what a layer said


@dataclass(frozen=True, slots=True)
class LayerQuality:
    """The output of one layer, with everything before it in the stage quantized too."""

    stage: str
    name: str
    sqnr_db: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What goes into the bundle, and the layers, worst first."""

    quality: Quality
    layers: tuple[LayerQuality, ...]


@dataclass(slots=True)
class _Found:
    agreements: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    divergences: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    psnr_db: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    free_shares: list[float] = field(default_factory=list)
    free_tokens: int = 0


def judge(
    reference: Bundle,
    quantized: Bundle,
    requests: Sequence[Request],
    *,
    data: Path,
    data_sha256: str,
    bars: Bars,
    seed: int,
    threads: int | None,
    on_step: OnStep,
) -> Judgement:
    """All figures. Raises UsageError if there are no requests, too many fail, or the bundles do not belong together."""
    _check_pair(reference, quantized)
    if not requests:
        raise UsageError(f"{data}: has no request to judge by; add some (every fourth one is kept for that)")
    reservoir, skipped = Reservoir(seed), Skipped()
    found = _Found()
    task = ""

    def offer(stage: str, feeds: Arrays, outputs: Outputs) -> None:
        reservoir.offer(stage, task, feeds, outputs)

    leading = ForcedPipeline(reference, threads, offer)
    led = ForcedPipeline(quantized, threads)
    free = [Pipeline.load(bundle, threads=threads, verify=False) for bundle in (reference, quantized)]
    for number, request in enumerate(requests):
        on_step("judging", number, len(requests))
        task = request.task
        try:
            leader = leading.run(request)
        except UsageError as error:
            skipped.add(request, error)
            continue
        _compare(leader, led.run(request, leader), found)
        if request.task != "reconstruct":
            answers = [answer_of(pipeline, request, steps=1) for pipeline in free]
            _compare_free(*answers, found=found)
    skipped.check(len(requests), data)
    stages, layers = {}, []
    names = [
        name for name in reservoir.stages if quantized.manifest.quantization is None or name in _quantized(quantized)
    ]
    for number, name in enumerate(names):
        on_step("stages", number, len(names))
        stages[name], of_layers = compare_stage(reference, quantized, name, list(reservoir.calls(name)), threads)
        layers += of_layers
    quality = _quality(found, stages, reference, quantized, len(requests) - len(skipped.reasons), data_sha256, bars)
    return Judgement(quality, tuple(sorted(layers, key=lambda layer: layer.sqnr_db)))


def compare_stage(
    reference: Bundle, quantized: Bundle, name: str, calls: Sequence[Call], threads: int | None
) -> tuple[StageQuality, list[LayerQuality]]:
    """The stage of both bundles on the inputs of the calls, and each of its layers."""
    with TemporaryDirectory() as folder:
        models = [graph_from_stage(bundle.path, bundle.stage(name)) for bundle in (reference, quantized)]
        made = {tensor for node in models[1].graph.node for tensor in node.output}
        # What folded scales have changed has another name in the quantized graph, and nothing to be compared with.
        layers = [layer for layer in layers_of(models[0].graph) if layer.output in made]
        outputs_of_layers = {layer.name: layer.output for layer in layers}
        taps = list(outputs_of_layers.values())
        sessions = []
        for bundle, model, side in zip((reference, quantized), models, ("float", "quantized"), strict=True):
            path = Path(folder, f"{side}.onnx")
            save_graph(with_taps(model, taps), path)
            sessions.append(_Tapped(path, bundle, name, taps, threads))
        last_layer = list(outputs_of_layers.values())[-1]
        total = SignalNoise()
        equal: list[float] = []
        of_layers = {layer: SignalNoise() for layer in outputs_of_layers}
        for call in calls:
            expected, got = (session.all_outputs(call.inputs) for session in sessions)
            for spec in reference.stage(name).outputs:
                if np.issubdtype(expected[spec.name].dtype, np.integer):
                    equal.append(float((expected[spec.name] == got[spec.name]).mean()))
                    total.add(*(_numbers(side[last_layer]) for side in (expected, got)))
                elif CACHE not in spec.name:
                    total.add(_numbers(expected[spec.name]), _numbers(got[spec.name]))
            for layer, tensor in outputs_of_layers.items():
                of_layers[layer].add(_numbers(expected[tensor]), _numbers(got[tensor]))
    agreement = float(np.mean(equal)) if equal else None
    return StageQuality(len(calls), total.sqnr_db, total.cosine, agreement), [
        LayerQuality(name, layer, sums.sqnr_db, sums.cosine) for layer, sums in of_layers.items()
    ]


class _Tapped:
    """A session that gives back its taps too."""

    def __init__(self, path: Path, bundle: Bundle, name: str, taps: list[str], threads: int | None) -> None:
        self._last: Outputs = {}
        self._session = WatchedSession(path, bundle.stage(name), threads, taps, self._watch)

    def all_outputs(self, feeds: Arrays) -> Outputs:
        """Outputs and taps by name."""
        self._session.run(feeds)
        return self._last

    def _watch(self, stage: str, feeds: Arrays, outputs: Outputs) -> Outputs:
        self._last = outputs
        return outputs


def _numbers(array: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(array, np.float32)


def _check_pair(reference: Bundle, quantized: Bundle) -> None:
    if reference.manifest.quantization is not None:
        raise UsageError(f"{reference.path} is quantized; name the float bundle to compare with")
    if set(reference.stages) != set(quantized.stages) or reference.model != quantized.model:
        raise UsageError(f"{quantized.path} was not made from {reference.path}: their stages or sizes differ")


def _quantized(bundle: Bundle) -> Sequence[str]:
    return () if bundle.manifest.quantization is None else tuple(bundle.manifest.quantization.stages)


def _compare(leader: Run, led: Run, found: _Found) -> None:
    for segment, expected, got in zip(leader.segments, leader.logits, led.logits, strict=True):
        found.agreements[segment].append(bool(expected.argmax() == got.argmax()))
        found.divergences[segment].append(float(divergence(expected[None], got[None])[0]))
    if isinstance(leader.answer, Picture) and isinstance(led.answer, Picture):
        pictures = [np.asarray(answer.image, np.uint8) for answer in (leader.answer, led.answer)]
        found.psnr_db.append(psnr_db(*pictures))
        found.ssim.append(ssim(*pictures))


def _compare_free(reference: object, quantized: object, *, found: _Found) -> None:
    expected, got = (_tokens(answer) for answer in (reference, quantized))
    total = max(len(expected), len(got), 1)
    equal = next((i for i in range(total) if expected[i : i + 1] != got[i : i + 1]), total)
    found.free_shares.append(equal / total)
    found.free_tokens += total


def _tokens(answer: object) -> list[int]:
    if isinstance(answer, Picture):
        return [int(code) for level in answer.codes for code in level.ravel()]
    return list(getattr(answer, "token_ids", ()))


def _quality(
    found: _Found,
    stages: dict[str, StageQuality],
    reference: Bundle,
    quantized: Bundle,
    num_requests: int,
    data_sha256: str,
    bars: Bars,
) -> Quality:
    segments = {
        name: SegmentQuality(len(equal), float(np.mean(equal)), float(np.mean(found.divergences[name])))
        for name, equal in found.agreements.items()
    }
    pictures = None
    if found.psnr_db:
        mean_psnr, worst = float(np.mean(found.psnr_db)), min(found.psnr_db)
        pictures = PictureQuality(len(found.psnr_db), mean_psnr, worst, float(np.mean(found.ssim)))
    shares = found.free_shares
    quality = Quality(
        requests=num_requests,
        data_sha256=data_sha256,
        num_bytes=bytes_of(quantized),
        float_bytes=bytes_of(reference),
        stages=stages,
        segments=segments,
        free=FreeQuality(len(shares), found.free_tokens, float(np.mean(shares)) if shares else 1.0),
        bars=bars,
        failed=(),
        pictures=pictures,
    )
    return _with_failures(quality)


def _with_failures(quality: Quality) -> Quality:
    bars = quality.bars
    failed = [f"{name}: SQNR" for name, stage in quality.stages.items() if not stage.sqnr_db >= bars.sqnr_db]
    for name, stage in quality.stages.items():
        if stage.agreement is not None and not stage.agreement >= bars.codes:
            failed.append(f"{name}: codes")
    for name, segment in quality.segments.items():
        if not segment.agreement >= bars.agreement:
            failed.append(f"{name}: agreement")
        if not segment.kl <= bars.kl:
            failed.append(f"{name}: KL")
    if quality.pictures is not None:
        if not quality.pictures.psnr_db >= bars.psnr_db:
            failed.append("pictures: PSNR")
        if not quality.pictures.ssim >= bars.ssim:
            failed.append("pictures: SSIM")
    if not quality.num_bytes <= bars.size * quality.float_bytes:
        failed.append("size")
    return replace(quality, failed=tuple(failed))


def bytes_of(bundle: Bundle) -> int:
    """Size of all files but `bundle.json`."""
    return sum(file.num_bytes for file in bundle.manifest.files.values())

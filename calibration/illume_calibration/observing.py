"""One pass of the float bundle over the calibration data, which leaves statistics of everything that is quantized.

The pass can be interrupted: what it found is kept beside the output after every few requests, and a second run with
the same bundle, data and seed goes on from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from illume_calibration.graph_file import graph_from_stage, save_graph, with_taps
from illume_calibration.layers import layers_of
from illume_calibration.requests import Request
from illume_calibration.running import Outputs, Skipped, WatchedSession, answer_of
from illume_calibration.statistics import (
    StageStatistics,
    Statistics,
    TensorStatistics,
    arrays_from_statistics,
    statistics_from_arrays,
)
from illume_runtime.bundle import Bundle
from illume_runtime.errors import EngineError, UsageError
from illume_runtime.files import atomic_write
from illume_runtime.manifest import StageSpec
from illume_runtime.pipeline import Pipeline
from illume_runtime.session import Arrays
from illume_runtime.trace import NULL_TRACER

SAVE_EVERY: Final = 8  # requests
OnRequest = Callable[[int, int], None]


@dataclass(slots=True)
class Observation:
    """The statistics of all stages that ran, and the requests that were skipped."""

    statistics: Statistics
    skipped: list[str]
    num_requests: int


def observe(
    bundle: Bundle,
    requests: list[Request],
    folder: Path,
    *,
    identity: str,
    data: Path,
    threads: int | None,
    on_request: OnRequest,
) -> Observation:
    """Run the requests. `folder` keeps what is needed to go on; `identity` says what it must be for.

    Raises UsageError if too many requests fail, EngineError if a stage gives numbers that are not finite.
    """
    done, statistics, skipped = _resumed(folder, identity)
    pipeline = _observed_pipeline(bundle, folder, statistics, threads)
    for number, request in enumerate(requests):
        if number < done:
            continue
        on_request(number, len(requests))
        try:
            answer_of(pipeline, request)
        except UsageError as error:
            skipped.add(request, error)
        if (number + 1) % SAVE_EVERY == 0:
            _save(folder, identity, number + 1, statistics, skipped)
    on_request(len(requests), len(requests))
    try:
        skipped.check(len(requests), data)
    except UsageError:
        shutil.rmtree(folder)  # the file must change, and then nothing of this is of use
        raise
    _save(folder, identity, len(requests), statistics, skipped)
    return Observation(statistics, skipped.reasons, len(requests) - len(skipped.reasons))


def _observed_pipeline(bundle: Bundle, folder: Path, statistics: Statistics, threads: int | None) -> Pipeline:
    def open_session(_: Path, spec: StageSpec, device: str, threads: int | None) -> WatchedSession:
        model = graph_from_stage(bundle.path, spec)
        axes = tapped_axes(model)
        of_stage = statistics.setdefault(spec.name, StageStatistics())
        for tensor, axis in axes.items():
            of_stage.tensors.setdefault(tensor, TensorStatistics(axis))
        path = folder / f"{spec.name}.onnx"
        save_graph(with_taps(model, list(axes)), path)
        inputs = {value.name for value in spec.inputs}

        def watch(stage: str, feeds: Arrays, outputs: Outputs) -> Outputs:
            of_stage.calls += 1
            for tensor in axes:
                values = feeds[tensor] if tensor in inputs else outputs[tensor]
                try:
                    of_stage.tensors[tensor].add(np.asarray(values, np.float32))
                except ValueError as error:
                    raise EngineError(f"{stage}: {tensor}: {error}; the float bundle does not work here") from error
            return outputs

        session = WatchedSession(path, spec, threads, [name for name in axes if name not in inputs], watch)
        path.unlink()
        return session

    return Pipeline(bundle, device="cpu", threads=threads, tracer=NULL_TRACER, open_session=open_session)


def tapped_axes(model: Any) -> dict[str, int]:
    """Tensor -> axis of its channels: the inputs of all layers, and the outputs of the convolutions."""
    axes: dict[str, int] = {}
    for layer in layers_of(model.graph):
        axes[layer.input] = -1 if layer.kind == "linear" else 1
        if layer.kind == "conv":
            axes[layer.output] = 1
    return axes


def _resumed(folder: Path, identity: str) -> tuple[int, Statistics, Skipped]:
    state = folder / "state.json"
    if folder.exists() and not state.is_file() and any(folder.iterdir()):
        raise UsageError(f"{folder} exists and was not made by illume calibrate; move it, or choose another --output")
    if state.is_file():
        data = json.loads(state.read_text(encoding="utf-8"))
        arrays = folder / data["arrays"]
        if data["identity"] == identity and arrays.is_file():
            with np.load(arrays, allow_pickle=False) as file:
                return data["done"], statistics_from_arrays(dict(file)), Skipped(data["skipped"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _save(folder, identity, 0, {}, Skipped())
    return 0, {}, Skipped()


def _save(folder: Path, identity: str, done: int, statistics: Statistics, skipped: Skipped) -> None:
    """The arrays first, then the state that names them: whenever this stops, the state's arrays are whole."""
    arrays = f"statistics-{done}.npz"
    with atomic_write(folder / arrays) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays_from_statistics(statistics))  # type: ignore[arg-type]
    state = {"identity": identity, "done": done, "skipped": skipped.reasons, "arrays": arrays}
    with atomic_write(folder / "state.json") as temporary:
        temporary.write_text(json.dumps(state), encoding="utf-8")
    for old in folder.glob("statistics-*.npz"):
        if old.name != arrays:
            old.unlink()

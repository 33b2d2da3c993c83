"""Requests through a pipeline whose every call of a stage is watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from illume_calibration.requests import Request
from illume_runtime.errors import EngineError, UsageError
from illume_runtime.manifest import StageSpec
from illume_runtime.ort import DISABLED_OPTIMIZERS, LOG_SEVERITY, ORT_ERRORS
from illume_runtime.pipeline import Answer, ImageSampling, Picture, Pipeline, TextSampling
from illume_runtime.session import Arrays

Outputs = dict[str, NDArray[np.generic]]
Watch = Callable[[str, Arrays, Outputs], Outputs]  # stage, inputs, outputs -> what the pipeline gets as outputs
MAX_SKIPPED_SHARE: Final = 0.05
SHOWN_FAILURES: Final = 3


def answer_of(pipeline: Pipeline, request: Request, steps: int | None = None) -> Answer | Picture:
    """What the pipeline makes of a request, as the bundle samples by default; `steps` are those of the diffusion."""
    if request.task == "describe":
        return pipeline.describe(_image(request), request.text, sampling=TextSampling(seed=request.seed))
    sampling = ImageSampling(seed=request.seed, steps=steps)
    if request.task == "draw":
        return pipeline.draw(request.text, sampling=sampling)[0]
    if request.task == "edit":
        return pipeline.edit(_image(request), request.text, sampling=sampling)[0]
    return pipeline.reconstruct(_image(request), sampling=sampling)


def _image(request: Request) -> Path:
    assert request.image is not None
    return request.image


@dataclass(slots=True)
class Skipped:
    """Requests that the pipeline refused; more than a twentieth is an error."""

    reasons: list[str] = field(default_factory=list)

    def add(self, request: Request, error: UsageError) -> None:
        """Count one."""
        self.reasons.append(f"line {request.line}: {error}")

    def check(self, num_requests: int, path: Path) -> None:
        """Raises UsageError if too many of the requests failed."""
        if len(self.reasons) > MAX_SKIPPED_SHARE * num_requests:
            shown = "; ".join(self.reasons[:SHOWN_FAILURES])
            raise UsageError(
                f"{path}: {len(self.reasons)} of {num_requests} requests cannot be run, expected at most "
                f"{MAX_SKIPPED_SHARE:.0%}: {shown}"
            )


class WatchedSession:
    """A stage whose every run goes through `watch`; the graph may have more outputs (taps) than the stage.

    A bound run copies its outputs to where they are bound.
    """

    def __init__(self, path: Path, spec: StageSpec, threads: int | None, taps: Sequence[str], watch: Watch) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = LOG_SEVERITY
        self._session = ort.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
        )
        self._spec = spec
        self._declared = [output.name for output in spec.outputs]
        self._names = list(dict.fromkeys((*self._declared, *taps)))
        self._watch = watch

    @property
    def spec(self) -> StageSpec:
        """The stage as its bundle declares it."""
        return self._spec

    @property
    def moved_bytes(self) -> int:
        """Bytes of its weights."""
        return self._spec.weight_bytes

    def run(self, feeds: Arrays) -> Outputs:
        """What `watch` makes of the outputs. Raises EngineError."""
        try:
            outputs = dict(zip(self._names, self._session.run(self._names, dict(feeds)), strict=True))
        except ORT_ERRORS as error:
            raise EngineError(f"{self._spec.name}: {error}") from error
        watched = self._watch(self._spec.name, feeds, outputs)
        return {name: watched[name] for name in self._declared}

    def bind(self, inputs: Arrays, outputs: Arrays) -> _WatchedRun:
        """A run over fixed arrays."""
        return _WatchedRun(self, inputs, outputs)


class _WatchedRun:
    def __init__(self, session: WatchedSession, inputs: Arrays, outputs: Arrays) -> None:
        self._session, self._inputs, self._outputs = session, inputs, outputs

    def run(self) -> None:
        """Runs on the bound inputs and fills the bound outputs."""
        for name, array in self._session.run(self._inputs).items():
            self._outputs[name][...] = array

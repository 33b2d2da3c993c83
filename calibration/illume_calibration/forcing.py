"""A request run with the tokens of another run: every choice is made for the pipeline, and what it would have said
is recorded.

The float pipeline chooses by itself, at the temperature of its defaults among what is likely enough; the quantized one
is then led along the same tokens, so that the logits of both belong to the same text, and the pictures to the same
codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_calibration.requests import Request
from illume_calibration.reservoir import Reservoir
from illume_calibration.running import Outputs, WatchedSession, answer_of
from illume_runtime.bundle import Bundle
from illume_runtime.errors import UsageError
from illume_runtime.manifest import StageSpec
from illume_runtime.pipeline import Answer, Picture, Pipeline
from illume_runtime.session import Arrays
from illume_runtime.trace import NULL_TRACER

OnCall = Callable[[str, Arrays, Outputs], None]
HEAD: Final = "head_"
MIN_P: Final = 0.05  # of the likeliest token: what is less likely is never chosen
CERTAIN: Final = np.float32(1e4)  # the logit by which a chosen token is ahead


@dataclass(slots=True)
class Run:
    """What happened in a request, call by call: the segments, logits [n] and tokens of the heads; codes of pictures."""

    segments: list[str] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    codes: list[NDArray[np.int64]] = field(default_factory=list)
    answer: Answer | Picture | None = None


class ForcedPipeline:
    """A pipeline whose choices are made from outside."""

    def __init__(self, bundle: Bundle, threads: int | None, on_call: OnCall | None = None) -> None:
        self._on_call = on_call
        self._run = Run()
        self._leader: Run | None = None
        self._random = np.random.default_rng(0)
        self._temperature = 0.0
        self._generation = bundle.generation
        self._pipeline = Pipeline(
            bundle, device="cpu", threads=threads, tracer=NULL_TRACER, open_session=self._open_session
        )

    def run(self, request: Request, leader: Run | None = None, steps: int | None = None) -> Run:
        """The request; with a leader its tokens and codes are taken. Raises what the pipeline raises."""
        self._run, self._leader = Run(), leader
        self._random = np.random.default_rng((request.seed, request.line))
        self._temperature = float(self._generation.get(request.task, {}).get("temperature", 0.0))
        self._run.answer = answer_of(self._pipeline, request, steps)
        return self._run

    def _open_session(self, path: Path, spec: StageSpec, device: str, threads: int | None) -> WatchedSession:
        return WatchedSession(path, spec, threads, (), self._watch)

    def _watch(self, stage: str, feeds: Arrays, outputs: Outputs) -> Outputs:
        if self._on_call is not None:
            self._on_call(stage, feeds, outputs)
        if stage.startswith(HEAD):
            return {**outputs, "logits": self._chosen(stage, np.asarray(outputs["logits"], np.float32))}
        if "codes" in outputs:
            codes = np.asarray(outputs["codes"], np.int64)
            if self._leader is not None:
                outputs = {**outputs, "codes": self._leader.codes[len(self._run.codes)]}
            self._run.codes.append(codes)
        return outputs

    def _chosen(self, stage: str, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [1, n] with which any sampler draws the token."""
        run = self._run
        if self._leader is not None:
            token = self._leader.tokens[len(run.tokens)]
        else:
            token = self._choice(logits[0].astype(np.float64))
        run.segments.append(stage.removeprefix(HEAD))
        run.logits.append(logits[0].copy())
        run.tokens.append(token)
        forced = np.zeros_like(logits)
        forced[:, token] = CERTAIN
        return forced

    def _choice(self, logits: NDArray[np.float64]) -> int:
        """The likeliest token, or a draw by the Gumbel-max trick."""
        if self._temperature == 0.0:
            return int(np.argmax(logits))
        logits = logits / self._temperature
        likely = logits >= logits.max() + np.log(MIN_P)
        noise = -np.log(-np.log(self._random.uniform(1e-12, 1.0, len(logits))))
        return int(np.argmax(np.where(likely, logits + noise, -np.inf)))


def calls_of_requests(bundle: Bundle, requests: Sequence[Request], *, seed: int, threads: int | None) -> Reservoir:
    """Calls of every stage, sampled while the bundle runs the requests; those that it refuses are left out."""
    reservoir = Reservoir(seed)
    task = ""

    def offer(stage: str, feeds: Arrays, outputs: Outputs) -> None:
        reservoir.offer(stage, task, feeds, outputs)

    pipeline = ForcedPipeline(bundle, threads, offer)
    for request in requests:
        task = request.task
        with suppress(UsageError):
            pipeline.run(request)
    return reservoir

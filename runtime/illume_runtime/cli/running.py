"""A pipeline for the length of a verb: loaded as the options say, traced where `--trace` asks for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from illume_runtime.cli.output import check_output
from illume_runtime.trace import NULL_TRACER, Tracer

if TYPE_CHECKING:
    from illume_runtime.pipeline import Pipeline

Sampling = TypeVar("Sampling")


class Stopwatch:
    """Milliseconds since it was made, or since the last `lap_ms`."""

    def __init__(self) -> None:
        self._start_s = perf_counter()

    def lap_ms(self) -> float:
        """Milliseconds since the last lap, rounded to microseconds."""
        now_s = perf_counter()
        lap_s, self._start_s = now_s - self._start_s, now_s
        return round(lap_s * 1e3, 3)


@contextmanager
def running(args: argparse.Namespace, verb: str) -> Iterator[tuple[Pipeline, Tracer]]:
    """The pipeline of `args.bundle` and the tracer that it reports to; the trace file is written when all went well.

    Raises UnavailableError before anything is loaded if the trace file cannot be written.
    """
    if args.trace:
        check_output(Path(args.trace))
    tracer = Tracer() if args.trace else NULL_TRACER
    with tracer.span("load", "load"):
        pipeline = pipeline_from_args(args, tracer)
    yield pipeline, tracer
    if args.trace:
        from illume_runtime.profile.trace_file import write_trace

        write_trace(args.trace, tracer.spans, {"command": f"illume {verb}", "bundle": str(args.bundle)})


def pipeline_from_args(args: argparse.Namespace, tracer: Tracer) -> Pipeline:
    """The pipeline that the options of `add_running` ask for."""
    from illume_runtime.memory import limit_memory
    from illume_runtime.pipeline import Pipeline

    limit_memory(args.memory)
    return Pipeline.load(
        args.bundle,
        device=args.device,
        threads=args.threads,
        tracer=tracer,
        verify=not args.no_verify,
        residency=args.residency,
    )


def sampling_from_args(kind: type[Sampling], args: argparse.Namespace) -> Sampling:
    """The sampling options that were given; those that were not keep the defaults of `kind`."""
    given = {field.name: getattr(args, field.name, None) for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in given.items() if value is not None})

"""How far a graph is from PyTorch: the largest absolute error of each case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from illume_export.stage import Arrays, Run, Stage
from illume_runtime.errors import QualityError
from illume_runtime.manifest import Parity


def parity_of(stage: Stage, file: Path, *, threads: int = 0) -> Parity:
    """The stage's ONNX file on ONNX Runtime (CPU) against PyTorch. Raises QualityError above the tolerance."""
    errors = stage.errors(run_from_onnx(file, threads=threads))
    worst = max(errors)
    if not worst <= stage.tolerance:  # also for NaN
        raise QualityError(
            f"{stage.name}: the graph differs from PyTorch by {worst:.3g}, expected at most {stage.tolerance:g}; "
            "nothing was written"
        )
    reference = f"torch {torch.__version__.split('+')[0]} float32"
    return Parity(float(worst), stage.tolerance, len(errors), reference)


def run_from_onnx(file: Path, *, threads: int = 0) -> Run:
    """A function that runs the file on the CPU. `threads` 0: all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; unbound caches are copied here, and each copy would be remarked upon
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def max_abs_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference; infinite for another shape, NaN if either holds one."""
    if got.shape != expected.shape:
        return float("inf")
    return float(np.max(np.abs(got.astype(np.float64) - expected.astype(np.float64))))


def module_errors(
    reference: Callable[..., Tensor], cases: Callable[[], Sequence[dict[str, Tensor]]]
) -> Callable[[Run], list[float]]:
    """The comparison of a stage with one output and no memory: one error per case of named inputs."""

    def errors(run: Run) -> list[float]:
        found = []
        for case in cases():
            with torch.no_grad():
                expected = reference(**case).numpy()
            (got,) = run({name: tensor.numpy() for name, tensor in case.items()}).values()
            found.append(max_abs_error(got, expected))
        return found

    return errors

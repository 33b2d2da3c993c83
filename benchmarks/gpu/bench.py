"""What the jobs of one process share: the GPU, its limits, how much is measured, and the time that is left."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Callable
from functools import cached_property
from time import time
from typing import Any

from benchmarks.gpu.timing import Limits, Sizes
from illume_runtime.errors import UnavailableError
from illume_runtime.gpu.accelerator import Accelerator, open_accelerator


class Bench:
    """`deadline` is a time of the system's clock."""

    def __init__(
        self,
        options: Namespace,
        sizes: Sizes,
        limits: Limits | None,
        deadline: float,
        clock: Callable[[], float] = time,
    ) -> None:
        self.options, self.sizes, self.limits, self._deadline, self._clock = options, sizes, limits, deadline, clock
        self.kept: dict[str, Any] = {}  # what several jobs need

    @property
    def left_s(self) -> float:
        """Seconds that are left for everything."""
        return self._deadline - self._clock()

    @cached_property
    def gpu(self) -> Accelerator:
        """Opened by the first job that needs it."""
        return open_accelerator(self.options.implementation)

    def floor_us(self, num_bytes: int) -> float | None:
        """Of a launch that moves so much; None where the limits are not known."""
        return self.limits.floor_us(num_bytes) if self.limits else None

    def torch(self) -> Any:
        """PyTorch, where it sees a GPU. Raises UnavailableError."""
        torch = peer_module("torch")
        if not torch.cuda.is_available():
            raise UnavailableError("torch: it sees no GPU; install a build for CUDA")
        return torch


def peer_module(name: str) -> Any:
    """A package that is not ours. Raises UnavailableError with the reason, whatever its import raises."""
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UnavailableError(f"{name}: {type(error).__name__}: {error}") from error

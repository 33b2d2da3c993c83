"""Work of PyTorch as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def captured_step(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The step as one CUDA graph, captured by its first call; it reads copies of its tensors, of the same shapes.

    What it gives back is overwritten by the next call.
    """
    graph = torch.cuda.CUDAGraph()
    inputs: list[Tensor] = []
    output: list[Tensor] = []

    def call(*given: Tensor) -> Tensor:
        if not output:
            inputs.extend(one.clone() for one in given)
            output.append(captured(graph, lambda: step(*inputs)))
        for ours, one in zip(inputs, given, strict=True):
            ours.copy_(one)
        graph.replay()
        return output[0]

    return call


def captured(graph: Any, work: Callable[[], Any], stream: Any = None) -> Any:
    """Capture what `work` puts on a stream (a new one), after it was done three times; gives what it gave back."""
    stream = stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = work()
    torch.cuda.synchronize()
    return result

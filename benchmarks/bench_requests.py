"""Whole requests, and the two stages of a drawing: the runtime beside eager PyTorch, called in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.eager_side import EagerSide
from benchmarks.requests import BATCH
from benchmarks.runtime_side import RuntimeSide

REQUESTS = {  # method of a side -> (what the table calls it, rounds, goal)
    "tokens": ("draw: tokens", 21, 6.0),
    "diffusion": ("draw: diffusion", 21, None),
    "draw": ("draw, whole", 21, 3.0),
    "draw_batch": (f"draw, {BATCH} as one batch", 7, None),
    "describe": ("describe", 15, None),
    "edit": ("edit", 15, None),
}


@pytest.fixture(scope="module")
def runtime(bundle: Path, threads: int) -> RuntimeSide:
    return RuntimeSide(bundle, threads)


@pytest.fixture(scope="module")
def eager(checkpoint: Path, threads: int) -> EagerSide:
    return EagerSide(checkpoint, threads)


@pytest.mark.parametrize("request_", REQUESTS)
def test_request(request_: str, runtime: RuntimeSide, eager: EagerSide, compare: Any, record: Any) -> None:
    name, rounds, goal = REQUESTS[request_]
    record.requests.append(compare(name, getattr(runtime, request_), getattr(eager, request_), rounds, goal))

"""Float and quantized stages in the same run: one call of each, by ONNX Runtime on one and on all cores.

python -m pytest benchmarks/bench_quantized.py --benchmark-only --benchmark-group-by=group,param:threads

Stages are those of `illume calibrate` with its default recipe and the requests in assets/calibration. The share of the
memory's limit is that of the weights' bytes: what a step of the decoder is bound by where the model is larger than the
caches of the processor.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.machine import usable_cores
from illume_runtime.pipeline import ImageSampling, Pipeline
from illume_runtime.session import session_from_stage

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "assets" / "calibration" / "requests.jsonl"
BUILD = ROOT / "build" / "bench"
SIZES = {"T": 1, "S": 192}
CALLS = {  # name -> stage, rows, new tokens
    "vision_encoder": ("vision_encoder", 1, 1),
    "prompt": ("decoder", 2, 80),
    "step": ("decoder", 2, 1),
    "step of 8 rows": ("decoder", 8, 1),
    "head_text": ("head_text", 1, 1),
    "head_level0": ("head_level0", 1, 1),
    "denoiser": ("denoiser", 2, 1),
    "vae_decoder": ("vae_decoder", 1, 1),
}
THREADS = sorted({1, usable_cores()})


@pytest.fixture(scope="session")
def bundles(bundle):
    """Both bundles by name; the int8 one is made anew."""
    output = BUILD / "int8.bundle"
    shutil.rmtree(output, ignore_errors=True)
    assert main(["calibrate", str(bundle), "--data", str(DATA), "-o", str(output), "--no-gate"]) == 0
    return {"float32": Bundle.open(bundle), "int8": Bundle.open(output)}


def feeds_of(spec, rows, tokens):
    """Random numbers in the shapes of a stage's inputs."""
    rng = np.random.default_rng(0)
    sizes = {**SIZES, "B": rows, "T": tokens}
    feeds = {}
    for port in spec.inputs:
        shape = [size if isinstance(size, int) else sizes[size] for size in port.shape]
        feeds[port.name] = rng.standard_normal(shape).astype(np.float32) * np.float32(0.5)
    if "positions" in feeds:
        feeds["positions"] = np.tile(np.arange(tokens) + SIZES["S"] - tokens, (rows, 1)).astype(np.int64)
    return feeds


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("call", CALLS)
def test_stage(benchmark, bundles, rounds, call, precision, threads):
    stage, rows, tokens = CALLS[call]
    opened = bundles[precision]
    spec = opened.stage(stage)
    session = session_from_stage(opened.stage_path(stage), spec, "cpu", threads)
    feeds = feeds_of(spec, rows, tokens)
    outputs = {
        port.name: np.zeros([{**SIZES, "B": rows, "T": tokens}.get(n, n) for n in port.shape], port.dtype)
        for port in spec.outputs
    }
    for name, array in feeds.items():
        outputs.update({f"{name}_out": array} if f"{name}_out" in outputs else {})
    bound = session.bind(feeds, outputs)
    benchmark.group = call
    benchmark.extra_info["weight_bytes"] = spec.weight_bytes
    benchmark.pedantic(bound.run, rounds=rounds(200), warmup_rounds=5)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("request_kind", ["draw", "describe"])
def test_request(benchmark, bundles, rounds, request_kind, precision, threads):
    pipeline = Pipeline.load(bundles[precision], threads=threads)
    picture = np.full((256, 256, 3), 200, np.uint8)

    def run():
        if request_kind == "draw":
            pipeline.draw("a red circle", sampling=ImageSampling(seed=1))
        else:
            pipeline.describe(picture, "what color is the circle?")

    benchmark.group = request_kind
    benchmark.pedantic(run, rounds=rounds(10), warmup_rounds=1)

"""`onnxruntime-genai`: its model builder for the CPU, and its generator without its search.

Quantized weights have its defaults for a CPU but for the groups, of which it takes 32: inputs become int8 (accuracy
level 4).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai

from benchmarks.peers.environments import FLOAT, group_of

PACKAGES = ("onnxruntime-genai",)


def export(checkpoint: Path, output: Path, threads: int, weights: str) -> None:
    """What the builder writes, with the number of threads in its configuration."""
    precision = "fp32" if weights == FLOAT else weights.partition("-")[0]
    words = ("-i", checkpoint, "-o", output, "-p", precision, "-e", "cpu", "-c", output.with_suffix(".cache"))
    if weights != FLOAT:
        words = (*words, "--extra_options", f"block_size={group_of(weights)}")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *map(str, words)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    path = output / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config, indent=1))


class Side:
    """One sequence."""

    def __init__(self, folder: Path, threads: int, max_tokens: int) -> None:
        self._model = onnxruntime_genai.Model(str(folder))
        self._max_tokens = max_tokens

    def reset(self) -> None:
        params = onnxruntime_genai.GeneratorParams(self._model)
        params.set_search_options(max_length=self._max_tokens, do_sample=False)
        self._generator = onnxruntime_genai.Generator(self._model, params)

    def append(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [V] of the last id."""
        self._generator.append_tokens(np.array([ids], np.int32))
        return self._generator.get_logits().reshape(-1, self._generator.get_logits().shape[-1])[-1]

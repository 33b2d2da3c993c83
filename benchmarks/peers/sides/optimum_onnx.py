"""`optimum-onnx`: ORTModelForCausalLM, exported and run by its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from optimum.onnxruntime import ORTModelForCausalLM

PACKAGES = ("optimum-onnx", "optimum", "transformers", "onnxruntime")


def export(checkpoint: Path, output: Path, threads: int, weights: str) -> None:
    """The ONNX file of the decoder with a cache."""
    ORTModelForCausalLM.from_pretrained(checkpoint, export=True, session_options=_options(threads)).save_pretrained(
        output
    )


class Side:
    """One sequence."""

    def __init__(self, folder: Path, threads: int, max_tokens: int) -> None:
        torch.set_num_threads(threads)
        self._model = ORTModelForCausalLM.from_pretrained(folder, session_options=_options(threads))

    def reset(self) -> None:
        self._cache, self._length = None, 0

    @torch.inference_mode()
    def append(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [V] of the last id."""
        begin, self._length = self._length, self._length + len(ids)
        out = self._model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, self._length, dtype=torch.int64),
            position_ids=torch.arange(begin, self._length)[None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = out.past_key_values
        return out.logits[0, -1].numpy()


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return options

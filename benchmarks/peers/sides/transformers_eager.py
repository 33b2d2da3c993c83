"""`transformers` in PyTorch, uncompiled. Nothing is exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

PACKAGES = ("transformers", "torch")


def export(checkpoint: Path, output: Path, threads: int, weights: str) -> None:
    """A link: the checkpoint is what is run."""
    output.symlink_to(checkpoint.resolve(), target_is_directory=True)


class Side:
    """One sequence."""

    def __init__(self, folder: Path, threads: int, max_tokens: int) -> None:
        torch.set_num_threads(threads)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def reset(self) -> None:
        self._cache = None

    @torch.inference_mode()
    def append(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [V] of the last id."""
        out = self._model(torch.tensor([ids]), past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        return out.logits[0, -1].numpy()

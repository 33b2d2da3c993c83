"""Eager PyTorch's side: the same checkpoint, sampling and solver, run as the public reference runs its own model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.requests import BATCH, INSTRUCTION, PROMPT, measuring_picture
from illume_export.families.illume.eager import EagerPipeline
from illume_export.families.illume.loader import illume_from_checkpoint
from illume_export.families.illume.specification import specification_from_config
from illume_runtime.manifest import Scheduler
from illume_runtime.solver import solver_table
from illume_runtime.typed_json import value_from_json

Defaults = Mapping[str, float]


class EagerSide:
    """The pipeline with the checkpoint's sampling defaults."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        model = illume_from_checkpoint(checkpoint)
        self._pipeline = EagerPipeline(model, (checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
        self._generation: Mapping[str, Defaults] = json.loads((checkpoint / "generation_config.json").read_text())
        specification = specification_from_config(model.config)
        self._scheduler = value_from_json(Scheduler, specification["scheduler"], "scheduler")
        self._question = specification["prompts"]["defaults"]["describe"]
        self._picture = np.asarray(measuring_picture())

    def tokens(self) -> object:
        self._codes = self._drawn("draw", PROMPT, None, 1)
        return self._codes

    def diffusion(self) -> object:
        return self._rendered("draw", self._codes)

    def draw(self) -> object:
        return self._rendered("draw", self._drawn("draw", PROMPT, None, 1))

    def draw_batch(self) -> object:
        return self._rendered("draw", self._drawn("draw", PROMPT, None, BATCH))

    def describe(self) -> object:
        return self.answer(int(self._generation["describe"]["max_tokens"]))

    def answer(self, max_tokens: int) -> str:
        """The first tokens of the answer to "describe the picture"."""
        ids = self._pipeline.answer(self._picture, self._question, max_tokens=max_tokens)
        text: str = self._pipeline.tokenizer.decode(ids)
        return text

    def edit(self) -> object:
        return self._rendered("edit", self._drawn("edit", INSTRUCTION, self._picture, 1))

    def _drawn(self, task: str, text: str, picture: np.ndarray | None, count: int) -> Tensor:
        defaults = self._generation[task]
        return self._pipeline.codes(
            text,
            picture,
            guidance=defaults["guidance"],
            num_pictures=count,
            choose=lambda scores: sampled(scores, defaults),
        )

    def _rendered(self, task: str, codes: Tensor) -> list[Image.Image]:
        defaults = self._generation[task]
        steps = solver_table(self._scheduler, int(defaults["steps"])).steps
        noise = torch.randn(len(codes), *self._scheduler.latent_shape)
        pictures = self._pipeline.pictures(codes, noise, steps, guidance=defaults["diffusion_guidance"])
        return [Image.fromarray(picture) for picture in pictures]


def sampled(scores: Tensor, defaults: Defaults) -> Tensor:
    """Tokens [B] of scores [B, V]: temperature, top-k, top-p over the whole vocabulary, then a draw."""
    if defaults["temperature"] == 0:
        return scores.argmax(-1)
    scores = scores / defaults["temperature"]
    if top_k := int(defaults.get("top_k", 0)):
        kth = scores.topk(min(top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < kth, float("-inf"))
    if (top_p := defaults.get("top_p", 1.0)) < 1:
        ordered, order = scores.sort(descending=True)
        chances = ordered.softmax(-1)
        left_out = chances.cumsum(-1) - chances >= top_p
        scores = scores.masked_fill(left_out.scatter(-1, order, left_out), float("-inf"))
    return torch.multinomial(scores.softmax(-1), 1)[:, 0]

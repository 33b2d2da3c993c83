"""The model on two sides, plain PyTorch and the runtime over ONNX, asked the same things."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from plus_checkpoint import DATA

from illume_export.families.illume_plus import folders_in, plus_from_folders
from illume_export.families.illume_plus.eager import EagerPipeline
from illume_export.families.illume_plus.models import IllumePlus
from illume_runtime.pipeline import Pipeline
from illume_runtime.prompting import embeds_of_prompt
from illume_runtime.prompts import PictureSlot, Prompt

Array = np.ndarray
Arrays = dict[str, np.ndarray]
PICTURE_ID = -200


class Side(Protocol):
    """What is compared."""

    def picture(self, image: Image.Image) -> Array:
        """The embeddings [T, D] of a picture's whole block."""

    def embed(self, ids: Sequence[int]) -> Array:
        """The embeddings [T, D] of ids."""

    def logits(self, embeds: Array) -> Array:
        """The logits [T, V] behind every token of embeds [T, D]."""


class TorchSide:
    """Plain modules."""

    def __init__(self, model: IllumePlus, tokenizer_json: str) -> None:
        self._eager = EagerPipeline(model, tokenizer_json)
        self._language = model.mllm.language_model

    @torch.inference_mode()
    def picture(self, image: Image.Image) -> Array:
        return self._eager._picture(image).numpy()

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Array:
        return self._eager._embed(*ids).numpy()

    @torch.inference_mode()
    def logits(self, embeds: Array) -> Array:
        hidden = self._language(torch.from_numpy(embeds)[None])[0]
        return self._language.logits(hidden, 0, self._language.config.vocab_size).numpy()


class OnnxSide:
    """Stages of a bundle."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._model = pipeline._model

    def picture(self, image: Image.Image) -> Array:
        seen = self._model.vision.understood([image])
        return embeds_of_prompt(self._model.engine, Prompt((PictureSlot(0),)), seen)

    def embed(self, ids: Sequence[int]) -> Array:
        return self._model.engine.embed(ids)

    def logits(self, embeds: Array) -> Array:
        stages, spec = self._model.stages, self._model.bundle.model
        length = len(embeds)
        cache = np.zeros((1, spec.num_kv_heads, -(-length // 64) * 64, spec.head_dim), np.float32)
        names = [f"{kind}_cache_{i}" for i in range(spec.num_layers) for kind in ("key", "value")]
        feeds = {"inputs_embeds": embeds[None], "positions": np.arange(length)[None]}
        hidden = stages.run("decoder", {**feeds, **{name: cache.copy() for name in names}})["hidden"][0]
        ones = np.ones(length, np.float32)
        heads = {"hidden": hidden, "hidden_uncond": hidden, "guidance": ones}
        segments = sorted(self._model.bundle.vocabulary.segments, key=lambda segment: segment.start)
        return np.concatenate([stages.run(f"head_{segment.name}", heads)["logits"] for segment in segments], axis=1)


def sequence(side: Side, ids: Sequence[int], image: Image.Image | None, more: Sequence[int] = ()) -> Array:
    """The embeddings [T, D] of a prompt's ids, in which a picture may stand, and of tokens behind it."""
    if PICTURE_ID in ids:
        at = ids.index(PICTURE_ID)
        assert image is not None
        parts = [side.embed(ids[:at]), side.picture(image), side.embed(ids[at + 1 :])]
    else:
        parts = [side.embed(ids)]
    return np.concatenate([*parts, side.embed(more)] if len(more) else parts)


@dataclass(frozen=True, slots=True)
class Setup:
    """Arrays by `file/name`, prompts, and the model on both sides."""

    arrays: Arrays
    prompts: dict[str, list[int]]
    pipeline: Pipeline
    sides: dict[str, Side]


def setup_of(arrays: Arrays, prompts: Path, checkpoint: Path, bundle: Path) -> Setup:
    pipeline = Pipeline.load(bundle, threads=1)
    torch_side = TorchSide(plus_from_folders(folders_in(checkpoint)), (bundle / "tokenizer.json").read_text())
    ids = {name: case["ids"] for name, case in json.loads(prompts.read_text()).items()}
    return Setup(arrays, ids, pipeline, {"torch": torch_side, "onnx": OnnxSide(pipeline)})


def picture(name: str) -> Image.Image:
    return Image.open(DATA / f"{name}.png").convert("RGB")


def anchored(setup: Setup, name: str) -> Image.Image:
    """As it is drawn again: padded."""
    image: Image.Image = setup.pipeline._model.vision._anchored(picture(name))  # type: ignore[attr-defined]
    return image


def close(got: np.ndarray, expected: np.ndarray, *, atol: float, rtol: float = 1e-4) -> None:
    np.testing.assert_allclose(got, expected, atol=atol, rtol=rtol)

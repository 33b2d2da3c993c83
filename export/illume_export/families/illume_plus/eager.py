"""The model in plain PyTorch, run as the public reference runs it: what the runtime's tokens are compared with.

Prompts are strings, in which control tokens are spelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from illume_export.checkpoint import Checkpoint
from illume_export.families.illume_plus.cases import plain_inputs, seen_picture
from illume_export.families.illume_plus.config import PlusVocabulary
from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.resolutions import ANCHORS, FINE_STRIDE, SIZES, PictureSize
from illume_export.greedy import GreedyTokens
from illume_export.sequences import Sequences, Watched, guided_codes
from illume_runtime.images import fit
from illume_runtime.patches import nearest_anchor

IMAGE = "<image>"  # in a prompt string: the place of the picture
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"


class EagerPipeline:
    """Greedy answers and codes of one model. Pictures are [Y, X, 3] uint8 of any size."""

    def __init__(self, model: IllumePlus, tokenizer_json: str) -> None:
        self.model = model
        self.vocabulary = model.config.vocabulary
        self.language_model = model.mllm.language_model
        self.tokenizer = Tokenizer.from_str(tokenizer_json)

    @torch.inference_mode()
    def describe(self, picture: np.ndarray, question: str, *, max_tokens: int) -> GreedyTokens:
        """The answer's text ids, without the control token that ends it; no repetition penalty."""
        controls = self.vocabulary.controls
        legal = torch.zeros(self.model.config.language_model.vocab_size, dtype=torch.bool)
        legal[: self.vocabulary.level0[0]] = True
        ends = [controls["end"], controls["pad"]]
        legal[[i for name, i in controls.items() if "image" in name or "line" in name or "level" in name]] = False
        sequence = Sequences(self.language_model)
        embeds = self._prompt(f"{IMAGE}\n{question}", "", Image.fromarray(picture))
        ids: list[int] = []
        choose = Watched()
        while len(ids) < max_tokens:
            token = choose(sequence.append(embeds).masked_fill(~legal, float("-inf")))
            if token.item() in ends:
                break
            ids.append(int(token))
            embeds = self.language_model.embed(token[:, None])
        return GreedyTokens(tuple(ids), choose.margins())

    @torch.inference_mode()
    def draw(self, prompt: str, picture: np.ndarray | None = None, *, guidance: float) -> GreedyTokens:
        """The codes of both levels in raster order, each from 0 within its level; with a picture it is an edit."""
        size, image = SIZES[0], None
        if picture is not None:
            image = Image.fromarray(picture)
            by_name = {anchor.name: (anchor.width, anchor.height) for anchor in ANCHORS}
            size = next(a for a in ANCHORS if a.name == nearest_anchor(image.size, by_name))
            whole = (size.width, size.height)
            image = fit(image, whole, resample="lanczos", pad_color=(255, 255, 255), whole=math.floor)
        tag = f"<height_{size.height}><width_{size.width}>"
        messages = (
            (
                f"Generate an image of {tag}, the content of image is {prompt}\n",
                f"Generate a random image of {tag}\n",
            )
            if image is None
            else (
                f"{tag}{IMAGE}\nPlease edit the image according to the instruction: {prompt}\n",
                f"{tag}{IMAGE}\nReconstruct the image according to the given image\n",
            )
        )
        cond, uncond = (self._prompt(message, tag, image) for message in messages)
        grammar = picture_grammar(self.vocabulary, size)
        choose = Watched()
        codes = guided_codes(self.language_model, cond, uncond, grammar, guidance=guidance, choose=choose)
        return GreedyTokens(tuple(codes[0].tolist()), choose.margins())

    def _prompt(self, message: str, suffix: str, image: Image.Image | None) -> Tensor:
        """Embeddings [1, T, D] of the conversation; text before and behind the picture is encoded on its own."""
        chunks = (HEAD + message + TAIL + suffix).split(IMAGE)
        parts = [self._embed(*self.tokenizer.encode(chunk, add_special_tokens=False).ids) for chunk in chunks]
        if image is not None:
            parts.insert(1, self._picture(image))
        return torch.cat(parts)[None]

    def _picture(self, image: Image.Image) -> Tensor:
        """The block of a picture: both levels' features row by row, among control tokens."""
        controls = {name: self._embed(i) for name, i in self.vocabulary.controls.items()}
        seen = seen_picture(self.model, image)
        features = self.model.mllm.vision_tower(seen.feeds["pixel_values"], *plain_inputs(seen))
        embeds: Tensor = self.model.mllm.mm_projector(*features)
        parts = [controls["start_of_image"]]
        counts = [rows * columns for rows, columns in seen.grids]
        for level, ((rows, columns), part) in enumerate(zip(seen.grids, torch.split(embeds, counts), strict=True)):
            parts.append(controls[f"start_of_level{level}"])
            for row in part.view(rows, columns, -1):
                parts += [row, controls["end_of_line"]]
            parts.append(controls[f"end_of_level{level}"])
        return torch.cat((*parts, controls["end_of_image"]))

    def _embed(self, *ids: int) -> Tensor:
        return self.language_model.embed(torch.tensor(ids, dtype=torch.int64))


def picture_grammar(vocabulary: PlusVocabulary, size: PictureSize) -> Iterator[tuple[int, int]]:
    """The legal ids [start, end) of each token of a picture."""
    controls = vocabulary.controls

    def only(name: str) -> tuple[int, int]:
        return controls[name], controls[name] + 1

    yield only("start_of_image")
    fine = (size.height // FINE_STRIDE, size.width // FINE_STRIDE)
    segments = (vocabulary.level0, vocabulary.level1)
    for level, ((rows, columns), segment) in enumerate(zip((size.coarse, fine), segments, strict=True)):
        yield only(f"start_of_level{level}")
        for _ in range(rows):
            for _ in range(columns):
                yield segment
            yield only("end_of_line")
        yield only(f"end_of_level{level}")
    yield only("end_of_image")


def pipeline_from_checkpoint(checkpoint: Checkpoint) -> EagerPipeline:
    """The pipeline of a checkpoint of this family."""
    assert isinstance(checkpoint.model, IllumePlus)
    return EagerPipeline(checkpoint.model, checkpoint.files["tokenizer.json"].decode())

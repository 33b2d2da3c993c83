"""The model in plain PyTorch, slow and obvious: what the runtime's tokens are compared with.

No cache, no compiled schedule, no batching: every token takes a whole pass over the sequence (with guidance two),
the logits of the whole vocabulary, and a mask. Greedy only.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from illume_export.checkpoint import Checkpoint
from illume_export.greedy import GreedyTokens
from illume_export.models import Illume


class EagerPipeline:
    """Greedy answers and pictures of one model. Pictures are [256, 256, 3] uint8."""

    def __init__(self, model: Illume, tokenizer_json: str) -> None:
        self.model = model
        self.config = model.config
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.tokenizer.encode_special_tokens = True  # what a user types never becomes a control token

    def describe(self, picture: np.ndarray, question: str, *, max_tokens: int) -> GreedyTokens:
        """The answer's text ids, without the control token that ends it."""
        sequence = self._prompt(question, picture)
        start, end = self.config.text_segment
        stops = {self.config.controls.end, self.config.controls.start_of_image}
        ids: list[int] = []
        margins: list[float] = []
        while len(ids) < max_tokens:
            token, margin = _best(self._logits(sequence), start, end)
            margins.append(margin)
            if token in stops:
                break
            ids.append(token)
            sequence = torch.cat((sequence, self._embed(token)))
        return GreedyTokens(tuple(ids), tuple(margins))

    def draw(self, prompt: str, picture: np.ndarray | None = None, *, guidance: float) -> GreedyTokens:
        """The codes of a picture in raster order, from 0 within the segment; with a picture it is an edit."""
        controls, (start, end) = self.config.controls, self.config.level0_segment
        sequences = [self._prompt(prompt, picture), self._prompt("", picture)]
        codes: list[int] = []
        margins: list[float] = []

        def append(token: int) -> None:
            sequences[:] = [torch.cat((sequence, self._embed(token))) for sequence in sequences]

        append(controls.start_of_image)
        for _ in range(self.config.grid_size):
            for _ in range(self.config.grid_size):
                cond, uncond = (self._logits(sequence) for sequence in sequences)
                token, margin = _best(uncond + guidance * (cond - uncond), start, end)
                codes.append(token - start)
                margins.append(margin)
                append(token)
            append(controls.end_of_line)
        return GreedyTokens(tuple(codes), tuple(margins))

    def _prompt(self, text: str, picture: np.ndarray | None) -> Tensor:
        """Embeddings [T, D]: begin, user, the text, the picture, assistant."""
        c = self.config.controls
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids if text else []
        parts = [self._embed(c.begin, c.user, *ids)]
        if picture is not None:
            parts += [self._embed(c.start_of_image), *self._rows(picture), self._embed(c.end_of_image)]
        return torch.cat((*parts, self._embed(c.assistant)))

    def _rows(self, picture: np.ndarray) -> list[Tensor]:
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        with torch.no_grad():
            embeds: Tensor = self.model.adapter(self.model.vision_encoder(pixels))[0]
        end_of_line = self._embed(self.config.controls.end_of_line)
        rows = torch.split(embeds, self.config.grid_size)
        return [part for row in rows for part in (row, end_of_line)]

    def _embed(self, *ids: int) -> Tensor:
        with torch.no_grad():
            return self.model.language_model.embed(torch.tensor(ids, dtype=torch.int64))

    def _logits(self, sequence: Tensor) -> Tensor:
        model = self.model.language_model
        with torch.no_grad():
            return model.logits(model(sequence[None])[0, -1], 0, self.config.language_model.vocab_size)


def pipeline_from_checkpoint(checkpoint: Checkpoint) -> EagerPipeline:
    """The pipeline of a checkpoint of this family."""
    assert isinstance(checkpoint.model, Illume)
    return EagerPipeline(checkpoint.model, checkpoint.files["tokenizer.json"].decode())


def _best(logits: Tensor, start: int, end: int) -> tuple[int, float]:
    """The id with the largest logit among [start, end), and its distance to the second."""
    masked = torch.full_like(logits, float("-inf"))
    masked[start:end] = logits[start:end]
    top = masked.topk(2).values
    return int(masked.argmax()), float(top[0] - top[1])

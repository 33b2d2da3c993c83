"""The model in plain PyTorch, run as the public reference runs its own: the runtime is compared with it.

Shapes: B sequences, T tokens, D width, V vocabulary, Y X grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from illume_export.checkpoint import Checkpoint
from illume_export.greedy import GreedyTokens
from illume_export.models import Illume, IllumeConfig
from illume_export.sequences import Choose, Sequences, Watched, guided_codes, likeliest
from illume_runtime.solver import SolverStep


class EagerPipeline:
    """Answers, codes and pictures of one model. Pictures are [256, 256, 3] uint8."""

    def __init__(self, model: Illume, tokenizer_json: str) -> None:
        self.model = model
        self.config = model.config
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.tokenizer.encode_special_tokens = True  # what a user types never becomes a control token

    def describe(self, picture: np.ndarray, question: str, *, max_tokens: int) -> GreedyTokens:
        """The likeliest answer's text ids, without the control token that ends it."""
        watched = Watched()
        return GreedyTokens(
            tuple(self.answer(picture, question, max_tokens=max_tokens, choose=watched)), watched.margins()
        )

    @torch.inference_mode()
    def answer(self, picture: np.ndarray, question: str, *, max_tokens: int, choose: Choose = likeliest) -> list[int]:
        """The answer's text ids, without the control token that ends it."""
        sequence = Sequences(self.model.language_model)
        start, end = self.config.text_segment
        legal = torch.zeros(self.config.language_model.vocab_size, dtype=torch.bool)
        legal[start:end] = True
        legal[self.config.controls.start_of_image] = False
        embeds = self.prompt(question, picture)[None]
        ids: list[int] = []
        while len(ids) < max_tokens:
            token = choose(sequence.append(embeds).masked_fill(~legal, float("-inf")))
            if token.item() == self.config.controls.end:
                break
            ids.append(int(token))
            embeds = self.model.language_model.embed(token[:, None])
        return ids

    def draw(self, prompt: str, picture: np.ndarray | None = None, *, guidance: float) -> GreedyTokens:
        """The likeliest codes in raster order, from 0 within the segment; with a picture it is an edit."""
        watched = Watched()
        codes = self.codes(prompt, picture, guidance=guidance, choose=watched)
        return GreedyTokens(tuple(codes[0].tolist()), watched.margins())

    @torch.inference_mode()
    def codes(
        self,
        prompt: str,
        picture: np.ndarray | None = None,
        *,
        guidance: float,
        num_pictures: int = 1,
        choose: Choose = likeliest,
    ) -> Tensor:
        """Codes [B, Y X] of a batch of pictures of one prompt; with a picture they are edits of it."""
        cond, uncond = (self.prompt(text, picture).expand(num_pictures, -1, -1) for text in (prompt, ""))
        grammar = picture_grammar(self.config)
        return guided_codes(self.model.language_model, cond, uncond, grammar, guidance=guidance, choose=choose)

    @torch.inference_mode()
    def pictures(self, codes: Tensor, noise: Tensor, steps: Sequence[SolverStep], *, guidance: float) -> np.ndarray:
        """Pictures [B, 256, 256, 3] of codes [B, Y X]; `noise` [B, C, Y, X] is where the flow begins."""
        batch, size = len(codes), self.config.grid_size
        code_map = self.model.image_tokenizer.code_map(codes.view(batch, size, size))
        both = torch.cat((torch.zeros_like(code_map), code_map))
        x, previous = noise, torch.zeros_like(noise)
        for step in steps:
            time = torch.full((2 * batch,), step.time)
            uncond, cond = self.model.denoiser(torch.cat((x, x)), time, both).chunk(2)
            velocity = uncond + guidance * (cond - uncond)
            x = step.a * x + step.b * velocity + step.c * previous
            previous = velocity
        pixels = (self.model.vae.decode(x).clamp(-1.0, 1.0) + 1.0) * 127.5
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def prompt(self, text: str, picture: np.ndarray | None) -> Tensor:
        """Embeddings [T, D]: begin, user, the text, the picture, assistant."""
        c = self.config.controls
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids if text else []
        parts = [self._embed(c.begin, c.user, *ids)]
        if picture is not None:
            parts += [self._embed(c.start_of_image), *self._rows(picture), self._embed(c.end_of_image)]
        return torch.cat((*parts, self._embed(c.assistant)))

    def _rows(self, picture: np.ndarray) -> list[Tensor]:
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        embeds: Tensor = self.model.adapter(self.model.vision_encoder(pixels))[0]
        end_of_line = self._embed(self.config.controls.end_of_line)
        rows = torch.split(embeds, self.config.grid_size)
        return [part for row in rows for part in (row, end_of_line)]

    def _embed(self, *ids: int) -> Tensor:
        return self.model.language_model.embed(torch.tensor(ids, dtype=torch.int64))


def picture_grammar(config: IllumeConfig) -> Iterator[tuple[int, int]]:
    """The legal ids [start, end) of each token of a picture, and of the one that ends the answer."""
    c = config.controls
    yield c.start_of_image, c.start_of_image + 1
    for _ in range(config.grid_size):
        for _ in range(config.grid_size):
            yield config.level0_segment
        yield c.end_of_line, c.end_of_line + 1
    yield c.end_of_image, c.end_of_image + 1
    yield c.end, c.end + 1


def pipeline_from_checkpoint(checkpoint: Checkpoint) -> EagerPipeline:
    """The pipeline of a checkpoint of this family."""
    assert isinstance(checkpoint.model, Illume)
    return EagerPipeline(checkpoint.model, checkpoint.files["tokenizer.json"].decode())

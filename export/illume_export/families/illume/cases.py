"""Real inputs of every stage, made by the model itself from a few drawn pictures."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from illume_export.models import Illume
from illume_export.pictures import drawn_pictures

NUM_PICTURES = 3


class Cases:
    """Inputs of the stages, each computed once when it is first asked for."""

    def __init__(self, model: Illume) -> None:
        self.model = model
        self.config = model.config

    @cached_property
    def pixels(self) -> Tensor:
        """Pictures [3, 3, 256, 256] in [-1, 1]."""
        pictures = torch.from_numpy(drawn_pictures(NUM_PICTURES, self.config.image_size))
        return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0

    @cached_property
    def features(self) -> Tensor:
        """The encoder's features [3, 64, C] of the pictures."""
        with torch.no_grad():
            y: Tensor = self.model.vision_encoder(self.pixels)
        return y

    @cached_property
    def code_maps(self) -> Tensor:
        """The code vectors [3, code_dim, 8, 8] of the pictures."""
        with torch.no_grad():
            return self.model.image_tokenizer.code_map(self.model.image_tokenizer.encode(self.features))

    @cached_property
    def latents(self) -> Tensor:
        """The latents [3, 16, 16, 16] of the pictures."""
        with torch.no_grad():
            return self.model.vae.encode(self.pixels)

    @cached_property
    def noise(self) -> Tensor:
        """Gaussian noise like the latents."""
        return torch.randn(self.latents.shape, generator=torch.Generator().manual_seed(0))

    def prompt_embeds(self, row: int, length: int) -> Tensor:
        """Embeddings [length, D] of a conversation: begin, user, text, a picture, assistant, then visual codes."""
        config, generator = self.config, torch.Generator().manual_seed(row)
        controls = config.controls
        text = torch.randint(*config.text_segment, (12,), generator=generator)
        codes = torch.randint(*config.level0_segment, (length,), generator=generator)
        with torch.no_grad():
            embed = self.model.language_model.embed
            image = self.model.adapter(self.features[row % NUM_PICTURES][None])[0]
            before = embed(torch.tensor([controls.begin, controls.user, *text.tolist(), controls.start_of_image]))
            after = embed(torch.tensor([controls.end_of_image, controls.assistant, *codes.tolist()]))
        return torch.cat((before, image, after))[:length]

    @cached_property
    def hidden(self) -> Tensor:
        """Hidden states [T, D] of one conversation: the heads' inputs."""
        length = min(96, self.config.language_model.max_context)
        with torch.no_grad():
            y: Tensor = self.model.language_model(self.prompt_embeds(0, length)[None])[0]
        return y

"""Real inputs of every stage, made by the model itself from a few drawn pictures of different shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from illume_export.families.illume_plus.models import IllumePlus
from illume_export.families.illume_plus.resolutions import SIZES
from illume_export.families.illume_plus.specification import LATENTS_PER_CODE, preprocessing_from_config
from illume_export.families.illume_plus.tables import rope_tables_of
from illume_export.pictures import drawn_pictures
from illume_runtime.images import normalized
from illume_runtime.patches import any_size, merged_grid, patch_rope, patches_of

SHAPES = ((96, 64), (48, 112))  # width, height of the pictures
STEPS = (751.0, 251.0, 1.0)


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """The inputs of the encoders, by name, and the grid of each level."""

    feeds: dict[str, Tensor]
    merged: dict[str, Tensor]
    grids: tuple[tuple[int, int], tuple[int, int]]


class Cases:
    """Inputs of the stages, each computed once when it is first asked for."""

    def __init__(self, model: IllumePlus) -> None:
        self.model = model

    @cached_property
    def pictures(self) -> tuple[SeenPicture, ...]:
        """Pictures as the runtime prepares them."""
        found = []
        for i, size in enumerate(SHAPES):
            pixels = drawn_pictures(1, max(size), seed=i)[0]
            found.append(seen_picture(self.model, Image.fromarray(pixels).resize(size)))
        return tuple(found)

    @cached_property
    def code_maps(self) -> tuple[Tensor, ...]:
        """The code vectors [1, Z, Y, X] of each picture."""
        tokenizer = self.model.tokenizer
        found = []
        for picture in self.pictures:
            with torch.no_grad():
                semantic = tokenizer.semantic_encoder(*plain_inputs(picture), *picture.merged.values())
                pixel = tokenizer.pixel_vectors(picture.feeds["pixel_values"])[0]
                codes = (
                    tokenizer.semantic_quantizer.nearest(semantic).view(picture.grids[0]),
                    tokenizer.pixel_quantizer.nearest(pixel.flatten(1).T).view(picture.grids[1]),
                )
                found.append(tokenizer.code_map(*codes))
        return tuple(found)

    def latents(self, code_map: Tensor, rows: int) -> Tensor:
        """Noise [rows, C, Y, X] in the shape of the latents of a code map."""
        diffusion = self.model.config.diffusion
        assert diffusion is not None
        sides = [LATENTS_PER_CODE * n for n in code_map.shape[-2:]]
        generator = torch.Generator().manual_seed(rows)
        return torch.randn(rows, diffusion.vae.latent_channels, *sides, generator=generator)

    def prompt_embeds(self, row: int, length: int) -> Tensor:
        """Embeddings [length, D] of a conversation: text, a picture, codes of both levels."""
        c, generator = self.model.config.vocabulary, torch.Generator().manual_seed(row)
        picture = self.pictures[row % len(self.pictures)]
        text, coarse, fine = (
            torch.randint(*bounds, (count,), generator=generator)
            for bounds, count in (((0, c.level0[0]), 12), (c.level0, length // 2), (c.level1, length))
        )
        with torch.no_grad():
            embed = self.model.mllm.language_model.embed
            features = self.model.mllm.vision_tower(picture.feeds["pixel_values"], *plain_inputs(picture))
            image = self.model.mllm.mm_projector(*features)
            return torch.cat((embed(text), image, embed(coarse), embed(fine)))[:length]

    @cached_property
    def hidden(self) -> Tensor:
        """Hidden states [T, D] of one conversation: the heads' inputs."""
        with torch.no_grad():
            y: Tensor = self.model.mllm.language_model(self.prompt_embeds(0, 96)[None])[0]
        return y


def seen_picture(model: IllumePlus, image: Image.Image) -> SeenPicture:
    """An RGB picture as the runtime prepares it."""
    spec, tables = preprocessing_from_config(model.config), rope_tables_of(model.config)
    width, height = any_size(image.size, spec)
    pixels = normalized(image.resize((width, height), Image.Resampling.BICUBIC), spec.mean, spec.std)
    same = (size.coarse for size in SIZES if (size.width, size.height) == (width, height))
    grid = next(same, merged_grid((width, height), spec.patches))
    arrays = {"pixel_values": pixels, "patches": patches_of(pixels[0], grid, spec.patches)}
    arrays |= dict(zip(("cos", "sin"), patch_rope(tables["patch_rope"], grid, spec.patches.merge), strict=True))
    merged = dict(zip(("merged_cos", "merged_sin"), patch_rope(tables["code_rope"], grid, 1), strict=True))
    fine = (height // spec.multiple, width // spec.multiple)
    return SeenPicture(_tensors(arrays), _tensors(merged), (grid, fine))


def plain_inputs(picture: SeenPicture) -> tuple[Tensor, Tensor, Tensor]:
    """Patches of two equal frames, as the plain vision transformer takes them, and their tables."""
    patches = picture.feeds["patches"]
    frames = patches.view(len(patches), 3, 1, -1).expand(-1, -1, 2, -1).reshape(len(patches), -1)
    return frames, picture.feeds["cos"], picture.feeds["sin"]


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

"""How a model sees images: of one size, or of any size with a vision transformer beside a convolutional encoder.

A `Vision` is made once per bundle, by what `preprocessing` says. Images are RGB pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from illume_runtime.images import RESAMPLING, fit, normalized, pixels_from_image, unfit
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.manifest import AnySizePreprocessing, Preprocessing
from illume_runtime.patches import any_size, merged_grid, nearest_anchor, patch_rope, patches_of
from illume_runtime.schedule import Codes, InputBlock, Schedule, any_input_block, num_places
from illume_runtime.stages import Stages

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """An image as the language model takes it: embeddings [N, D] for the places of the block."""

    embeds: NDArray[np.float32]
    block: InputBlock


class Vision(Protocol):
    """What the pipeline asks of it."""

    def schedule_for(self, image: Image.Image) -> Schedule:
        """The size in which the image is drawn again."""

    def num_places(self, image: Image.Image) -> int:
        """Places that an image takes in the context when it is asked about. Raises what `understood` raises of it."""

    def understood(self, images: Sequence[Image.Image]) -> list[Seen]:
        """Images that are asked about."""

    def drawn_again(self, images: Sequence[Image.Image]) -> list[Seen]:
        """Images that are to be changed: in the size of their schedules."""

    def codes(self, images: Sequence[Image.Image]) -> list[Codes]:
        """Images as visual tokens, in the size of their schedules."""

    def restored(self, picture: Image.Image, original_size: tuple[int, int]) -> Image.Image:
        """A drawn picture without its padding, in the (width, height) of the image that it was made from."""


def vision_from_stages(stages: Stages, schedules: Mapping[str, Schedule]) -> Vision:
    """The vision of the bundle."""
    preprocessing = stages.bundle.preprocessing
    if isinstance(preprocessing, Preprocessing):
        return FixedSizeVision(stages, preprocessing, next(iter(schedules.values())))
    return AnySizeVision(stages, preprocessing, schedules)


@dataclass(frozen=True, slots=True)
class FixedSizeVision:
    """Every image is padded to one size; images are encoded in batches."""

    stages: Stages
    preprocessing: Preprocessing
    schedule: Schedule

    def schedule_for(self, image: Image.Image) -> Schedule:
        """The only one."""
        return self.schedule

    def num_places(self, image: Image.Image) -> int:
        """The same for all."""
        return self.schedule.num_input_tokens

    def understood(self, images: Sequence[Image.Image]) -> list[Seen]:
        """An image that stands there more than once is encoded once."""
        unique = list({id(image): image for image in images}.values())
        encoded: dict[int, Seen] = {}
        for first in range(0, len(unique), MAX_DRAW_BATCH):
            part = unique[first : first + MAX_DRAW_BATCH]
            embeds = self.stages.run("vision_encoder", {"pixel_values": self._pixels(part)})["image_embeds"]
            for image, one in zip(part, embeds.astype(np.float32, copy=False), strict=True):
                encoded[id(image)] = Seen(one, self.schedule.input_block)
        return [encoded[id(image)] for image in images]

    def drawn_again(self, images: Sequence[Image.Image]) -> list[Seen]:
        """The same as what is understood."""
        return self.understood(images)

    def codes(self, images: Sequence[Image.Image]) -> list[Codes]:
        """One level."""
        found: list[Codes] = []
        for first in range(0, len(images), MAX_DRAW_BATCH):
            part = images[first : first + MAX_DRAW_BATCH]
            ids = self.stages.run("image_tokenizer", {"pixel_values": self._pixels(part)})["codes"]
            found += [(one.astype(np.int64),) for one in ids]
        return found

    def restored(self, picture: Image.Image, original_size: tuple[int, int]) -> Image.Image:
        """Resized with the filter that reads."""
        return unfit(picture, original_size)

    def _pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        with self.stages.tracer.span("preprocess"):
            return np.concatenate([pixels_from_image(image, self.preprocessing) for image in images])


@dataclass(frozen=True, slots=True)
class AnySizeVision:
    """An image keeps its size as far as limits allow; one that is drawn again is padded to the nearest anchor."""

    stages: Stages
    preprocessing: AnySizePreprocessing
    schedules: Mapping[str, Schedule]

    def schedule_for(self, image: Image.Image) -> Schedule:
        """The anchor nearest in shape."""
        sizes = {name: (self.schedules[name].width, self.schedules[name].height) for name in self.preprocessing.anchors}
        return self.schedules[nearest_anchor(image.size, sizes)]

    def num_places(self, image: Image.Image) -> int:
        """As many as its own size makes."""
        bundle, grids = self.stages.bundle, self._grids(any_size(image.size, self.preprocessing))
        return num_places(any_input_block(bundle.grammar, bundle.vocabulary, grids))

    def understood(self, images: Sequence[Image.Image]) -> list[Seen]:
        """Each in its own size; an image that stands there more than once is encoded once."""
        return self._seen(images, lambda image: image)

    def drawn_again(self, images: Sequence[Image.Image]) -> list[Seen]:
        """Padded to their anchors."""
        return self._seen(images, self._anchored)

    def codes(self, images: Sequence[Image.Image]) -> list[Codes]:
        """Two levels, [rows, columns] each."""
        found: list[Codes] = []
        for image in images:
            feeds, grids = self._feeds(self._anchored(image))
            merged = patch_rope(_table(self.stages, "code_rope"), grids[0], 1)
            feeds |= {"merged_cos": merged[0], "merged_sin": merged[1]}
            outputs = self.stages.run("image_tokenizer", feeds)
            levels = (outputs[f"codes_level{level}"] for level in range(len(grids)))
            found.append(tuple(ids.astype(np.int64).reshape(grid) for ids, grid in zip(levels, grids, strict=True)))
        return found

    def restored(self, picture: Image.Image, original_size: tuple[int, int]) -> Image.Image:
        """Resized with the filter that pads."""
        return unfit(picture, original_size, resample=self.preprocessing.anchor_resample, whole=math.floor)

    def _anchored(self, image: Image.Image) -> Image.Image:
        schedule, spec = self.schedule_for(image), self.preprocessing
        size = (schedule.width, schedule.height)
        return fit(image, size, resample=spec.anchor_resample, pad_color=spec.pad_color, whole=math.floor)

    def _seen(self, images: Sequence[Image.Image], prepared: Callable[[Image.Image], Image.Image]) -> list[Seen]:
        bundle = self.stages.bundle
        encoded: dict[int, Seen] = {}
        for image in {id(image): image for image in images}.values():
            feeds, grids = self._feeds(prepared(image))
            embeds = self.stages.run("vision_encoder", feeds)["image_embeds"][0].astype(np.float32, copy=False)
            encoded[id(image)] = Seen(embeds, any_input_block(bundle.grammar, bundle.vocabulary, grids))
        return [encoded[id(image)] for image in images]

    def _feeds(self, image: Image.Image) -> tuple[dict[str, NDArray[np.generic]], tuple[Grid, Grid]]:
        """Inputs of the encoders, and the grids of both levels."""
        spec = self.preprocessing
        with self.stages.tracer.span("preprocess"):
            size = any_size(image.size, spec)
            pixels = normalized(image.resize(size, RESAMPLING[spec.resample]), spec.mean, spec.std)
            grids = self._grids(size)
            cos, sin = patch_rope(_table(self.stages, "patch_rope"), grids[0], spec.patches.merge)
            feeds: dict[str, NDArray[np.generic]] = {
                "pixel_values": pixels,
                "patches": patches_of(pixels[0], grids[0], spec.patches),
                "cos": cos,
                "sin": sin,
            }
        return feeds, grids

    def _grids(self, size: tuple[int, int]) -> tuple[Grid, Grid]:
        """Rows and columns of both levels. The coarse one is that of the resolution of this size, else what fits."""
        width, height = size
        multiple = self.preprocessing.multiple
        fine = (height // multiple, width // multiple)
        for schedule in self.schedules.values():
            if (schedule.width, schedule.height) == size:
                return schedule.grids[0], fine
        return merged_grid(size, self.preprocessing.patches), fine


def _table(stages: Stages, name: str) -> NDArray[np.float32]:
    return np.asarray(stages.bundle.table(name), np.float32)

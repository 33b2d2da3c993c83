"""The whole model: every network of one checkpoint."""

from __future__ import annotations

from torch import nn

from illume_export.families.illume_plus.config import PlusConfig
from illume_export.families.illume_plus.models.dualvitok import DualViTok
from illume_export.families.illume_plus.models.tower import DualTower, Projector
from illume_export.families.illume_plus.models.unet import Unet
from illume_export.families.illume_plus.models.vae_decoder import VaeDecoder
from illume_export.models.language_model import LanguageModel


class Mllm(nn.Module):
    """The language model, and the eyes that were trained with it."""

    def __init__(self, c: PlusConfig) -> None:
        super().__init__()
        vit, pixel = c.tokenizer.vit.out_size, c.tokenizer.pixel_encoder.z_channels
        self.language_model = LanguageModel(c.language_model)
        self.vision_tower = DualTower(c.tokenizer)
        self.mm_projector = Projector(vit, pixel, c.language_model.hidden_size)


class IllumePlus(nn.Module):
    """Language model, tokenizer and, where the checkpoint has one, the diffusion decoder."""

    def __init__(self, c: PlusConfig) -> None:
        super().__init__()
        self.config = c
        self.mllm = Mllm(c)
        self.tokenizer = DualViTok(c.tokenizer)
        self.unet = Unet(c.diffusion.unet) if c.diffusion is not None else None
        self.vae = VaeDecoder(c.diffusion.vae) if c.diffusion is not None else None

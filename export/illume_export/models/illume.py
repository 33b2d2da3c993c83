"""A whole model of the `illume` family: six modules, and the names under which a checkpoint stores them."""

from __future__ import annotations

from torch import nn

from illume_export.models.config import IllumeConfig
from illume_export.models.denoiser import Denoiser
from illume_export.models.image_tokenizer import ImageTokenizer
from illume_export.models.language_model import LanguageModel
from illume_export.models.vae import Vae
from illume_export.models.vision_encoder import Adapter, VisionEncoder


class Illume(nn.Module):
    """Holder of the modules; there is no single forward pass."""

    def __init__(self, config: IllumeConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(config)
        self.adapter = Adapter(config)
        self.language_model = LanguageModel(config.language_model)
        self.image_tokenizer = ImageTokenizer(config)
        self.denoiser = Denoiser(config)
        self.vae = Vae(config)

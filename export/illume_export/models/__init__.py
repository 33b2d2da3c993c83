"""Plain PyTorch modules of the models that can be exported."""

from illume_export.models.config import (
    DenoiserConfig,
    IllumeConfig,
    ImageTokenizerConfig,
    LanguageModelConfig,
    VaeConfig,
    VisionEncoderConfig,
)
from illume_export.models.illume import Illume

__all__ = [
    "DenoiserConfig",
    "Illume",
    "IllumeConfig",
    "ImageTokenizerConfig",
    "LanguageModelConfig",
    "VaeConfig",
    "VisionEncoderConfig",
]

"""Sizes of a model of the `illume_plus` family. The defaults are those of the published tokenizer and decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from illume_export.models import LanguageModelConfig


@dataclass(frozen=True, slots=True)
class VitConfig:
    """Vision transformer over merged blocks of patches."""

    depth: int = 32
    width: int = 1280
    num_heads: int = 16
    mlp_size: int = 5120
    out_size: int = 3584
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.num_heads

    @property
    def stride(self) -> int:
        """Pixels per feature."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, slots=True)
class MovqConfig:
    """Half of a convolutional autoencoder; `channels` count from full resolution."""

    base_channels: int = 128
    channels: tuple[int, ...] = (128, 128, 256, 256, 512)
    num_blocks: int = 2
    attention_levels: tuple[int, ...] = (4,)
    z_channels: int = 32

    @property
    def stride(self) -> int:
        """Pixels per feature."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True, slots=True)
class SemanticConfig:
    """Blocks between the vision transformer and the semantic codes."""

    num_blocks: int = 4
    width: int = 1280
    code_dim: int = 32
    num_heads: int = 16  # the same for all widths


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Vision tokenizer with two levels."""

    vit: VitConfig = VitConfig()
    semantic: SemanticConfig = SemanticConfig()
    pixel_encoder: MovqConfig = MovqConfig()
    pixel_decoder: MovqConfig = MovqConfig(
        base_channels=384, channels=(384, 384, 768, 768, 1536), num_blocks=2, z_channels=64
    )
    pixel_code_dim: int = 32
    num_codes: tuple[int, int] = (32768, 98304)

    @property
    def code_dims(self) -> int:
        """Channels of a code map: those of both levels."""
        return self.semantic.code_dim + self.pixel_code_dim


@dataclass(frozen=True, slots=True)
class UnetConfig:
    """UNet of Stable Diffusion XL; lists count from full resolution, 0 layers mean no transformer."""

    in_channels: int = 68
    channels: tuple[int, ...] = (320, 640, 1280)
    layers_per_block: int = 2
    transformer_layers: tuple[int, ...] = (0, 2, 10)
    num_heads: tuple[int, ...] = (5, 10, 20)
    context_width: int = 2048
    size_embed_width: int = 256
    norm_groups: int = 32

    @property
    def embed_width(self) -> int:
        """Width of the step embedding."""
        return 4 * self.channels[0]


@dataclass(frozen=True, slots=True)
class VaeDecoderConfig:
    """Decoder of the autoencoder of Stable Diffusion XL."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_groups: int = 32
    scaling_factor: float = 0.13025


@dataclass(frozen=True, slots=True)
class NoiseConfig:
    """What a scheduler of diffusers says of the noise that the UNet was trained on."""

    solver: str = "euler"
    num_train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps_offset: int = 1
    final_sigma: str = "zero"


@dataclass(frozen=True, slots=True)
class DiffusionConfig:
    """The diffusion decoder."""

    unet: UnetConfig = UnetConfig()
    vae: VaeDecoderConfig = VaeDecoderConfig()
    noise: NoiseConfig = NoiseConfig()


@dataclass(frozen=True, slots=True)
class PlusVocabulary:
    """Token ids. `tags` are the names of sizes: ("height", 256) -> id."""

    controls: Mapping[str, int]
    tags: Mapping[tuple[str, int], int]
    level0: tuple[int, int]
    level1: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PlusConfig:
    """Everything that the modules, the grammar and the prompts need to know.

    `rope_type` is the type in which the vision transformer's positions were computed while it was trained.
    """

    name: str
    language_model: LanguageModelConfig
    vocabulary: PlusVocabulary
    tokenizer: TokenizerConfig
    diffusion: DiffusionConfig | None
    min_pixels: int = 32 * 32
    max_pixels: int = 768 * 768
    rope_type: str = "float32"

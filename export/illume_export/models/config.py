"""Configuration of a model of the `illume` family: what `config.json` of a checkpoint holds."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VisionEncoderConfig:
    """A convolutional stem of stride 32, then a Vision Transformer."""

    stem_channels: tuple[int, int] = (64, 128)
    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    mlp_size: int = 768


@dataclass(frozen=True, slots=True)
class LanguageModelConfig:
    """A decoder of the Llama kind; `attention_bias` makes it one of the Qwen2 kind."""

    vocab_size: int = 1544
    hidden_size: int = 256
    num_layers: int = 6
    num_heads: int = 8
    num_kv_heads: int = 2
    head_dim: int = 32
    mlp_size: int = 640
    rope_theta: float = 500.0
    rms_norm_eps: float = 1e-6
    attention_bias: bool = True
    tie_word_embeddings: bool = True
    max_context: int = 512


@dataclass(frozen=True, slots=True)
class ImageTokenizerConfig:
    """Quantizer over the vision encoder's features, and the decoder that reconstructs the features."""

    codebook_size: int = 1024
    code_dim: int = 32
    decoder_layers: int = 2


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """Convolutional VAE: 16x spatial compression."""

    latent_channels: int = 16
    channels: tuple[int, int, int] = (128, 64, 32)


@dataclass(frozen=True, slots=True)
class DenoiserConfig:
    """Diffusion transformer over 2x2 patches of the latents, conditioned on code embeddings."""

    hidden_size: int = 192
    num_layers: int = 6
    num_heads: int = 6
    mlp_size: int = 768
    time_channels: int = 128


@dataclass(frozen=True, slots=True)
class Controls:
    """Ids of the control tokens."""

    end: int = 512
    start_of_image: int = 513
    end_of_image: int = 514
    end_of_line: int = 515
    begin: int = 516
    user: int = 517
    assistant: int = 518
    pad: int = 519


@dataclass(frozen=True, slots=True)
class IllumeConfig:
    """Everything that the modules, the grammar and the prompts need to know."""

    model_type: str = "illume"
    name: str = "illume-tiny"
    image_size: int = 256
    grid_size: int = 8
    text_segment: tuple[int, int] = (0, 514)
    level0_segment: tuple[int, int] = (520, 1544)
    controls: Controls = field(default_factory=Controls)
    vision_encoder: VisionEncoderConfig = field(default_factory=VisionEncoderConfig)
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    image_tokenizer: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)

    def __post_init__(self) -> None:
        start, end = self.level0_segment
        if end - start != self.image_tokenizer.codebook_size:
            raise ValueError(
                f"config: level0_segment holds {end - start} ids, expected codebook_size = "
                f"{self.image_tokenizer.codebook_size}; make both equal"
            )
        if end > self.language_model.vocab_size:
            raise ValueError(
                f"config: level0_segment ends at {end}, expected at most vocab_size = "
                f"{self.language_model.vocab_size}; enlarge the vocabulary"
            )

    @classmethod
    def tiny(cls) -> IllumeConfig:
        """The configuration of illume-tiny."""
        return cls()

    @property
    def num_patches(self) -> int:
        """Image tokens of one picture, in and out."""
        return self.grid_size * self.grid_size

    @property
    def latent_size(self) -> int:
        """Rows and columns of the latents."""
        return self.image_size // 16

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> IllumeConfig:
        """The configuration in `data`; raises ValueError for an unknown, missing or wrongly typed key."""
        return _from_mapping(cls, data, "config")


def _from_mapping(cls: type[T], data: object, where: str) -> T:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: got {type(data).__name__}, expected an object")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    missing = sorted(set(hints) - set(data))
    if unknown or missing:
        raise ValueError(f"{where}: unknown keys {unknown}, missing keys {missing}; expected exactly {sorted(hints)}")
    return cls(**{key: _checked(hint, data[key], f"{where}.{key}") for key, hint in hints.items()})


def _checked(hint: Any, value: object, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _from_mapping(typing.cast("type[Any]", hint), value, where)
    if isinstance(hint, types.GenericAlias):
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
            raise ValueError(f"{where}: got {value!r}, expected a list of {len(kinds)} numbers")
        return tuple(_checked(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{where}: got {value!r}, expected {hint.__name__}")
    return value

"""What `bundle.json` says of a quantized bundle: how it was made, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Weights = Literal["float32", "int8", "int4"]
Activations = Literal["float32", "int8"]
Scaling = Literal["none", "smoothquant", "awq"]
Rounding = Literal["nearest", "gptq"]
NO_DATA: Final = "none"  # in place of a file's name


@dataclass(frozen=True, slots=True)
class StageQuantization:
    """One stage. `kept` are its layers that stay in float32, `weight_only` those with float32 activations.

    `scaled` are those whose inputs have their channels scaled by the method `scaling`.
    """

    weights: Weights
    activations: Activations
    num_layers: int
    weight_only: tuple[str, ...]
    kept: tuple[str, ...]
    scaling: Scaling = "none"
    rounding: Rounding = "nearest"
    scaled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Where the scales come from: a file of requests, and how many of them were run, or skipped as they failed.

    `file` is NO_DATA where the weights alone were enough.
    """

    file: str
    sha256: str
    requests: int
    skipped: int
    seed: int


@dataclass(frozen=True, slots=True)
class StageQuality:
    """A quantized stage beside the float one on the same inputs.

    A stage that gives codes is measured at its last layer, before the choice, and by the share of equal codes.
    """

    calls: int
    sqnr_db: float
    cosine: float
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class SegmentQuality:
    """Choices of a vocabulary segment, each after the float bundle's own tokens.

    `agreement` is the share of tokens whose likeliest choice is the same, `kl` the mean divergence in nats.
    """

    tokens: int
    agreement: float
    kl: float


@dataclass(frozen=True, slots=True)
class PictureQuality:
    """Pictures of the same tokens and noise: means, and the worst PSNR."""

    pictures: int
    psnr_db: float
    worst_psnr_db: float
    ssim: float


@dataclass(frozen=True, slots=True)
class FreeQuality:
    """Requests answered freely with the same seeds: the mean share of tokens before the first different one."""

    requests: int
    tokens: int
    agreement: float


@dataclass(frozen=True, slots=True)
class Bars:
    """What a quantized bundle must reach."""

    sqnr_db: float = 15.0  # of every stage, at least
    agreement: float = 0.99  # of the tokens of every segment, at least
    codes: float = 0.95  # of the codes of pictures that are taken in, at least
    kl: float = 0.02  # nats a token in every segment, at most
    psnr_db: float = 30.0  # mean of the pictures, at least
    ssim: float = 0.95  # mean of the pictures, at least
    size: float = 0.35  # of the float bundle's bytes, at most


@dataclass(frozen=True, slots=True)
class Quality:
    """All figures of the quality gate; `failed` names what is under its bar."""

    requests: int
    data_sha256: str
    num_bytes: int = field(metadata={"json": "bytes"})
    float_bytes: int
    stages: Mapping[str, StageQuality]
    segments: Mapping[str, SegmentQuality]
    free: FreeQuality
    bars: Bars
    failed: tuple[str, ...]
    pictures: PictureQuality | None = None  # None where no request makes one


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the float bundle whose `bundle.json` has the hash `source_sha256` became this one."""

    recipe: str
    method: str
    percentile: float
    source_sha256: str
    data: CalibrationData
    stages: Mapping[str, StageQuantization]
    quality: Quality | None = None  # None where the gate was not run

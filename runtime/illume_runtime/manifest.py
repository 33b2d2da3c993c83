"""`bundle.json` as data: one definition of its schema for those who write bundles and those who read them.

The keys are described in `docs/bundle.md`. Here the types of all keys are
checked, in `consistency.py` what they say of each other, in `bundle.py` the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from illume_runtime.errors import InvalidBundleError
from illume_runtime.programs import ImageGrammar
from illume_runtime.quantization import Quantization
from illume_runtime.templates import Prompts
from illume_runtime.typed_json import json_from_value, value_from_json

FORMAT = "illume-bundle"
SCHEMA_VERSION = 1
MANIFEST_NAME = "bundle.json"
EMBEDDING_TABLE = "token_embedding"
EMBEDDING_SCALE_TABLE = "token_embedding_scale"  # there exactly where the rows are int8


@dataclass(frozen=True, slots=True)
class FileSpec:
    """Size and SHA-256 (hexadecimal) of a file."""

    num_bytes: int = field(metadata={"json": "bytes"})
    sha256: str


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a stage; a dimension is a size or a name, and a name is one size within a call."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs per call, per row of the batch, or per token (rows x T)."""

    per: Literal["call", "token", "row"]
    count: int


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the stage was from its reference when it was exported."""

    max_abs_error: float
    tolerance: float
    cases: int
    reference: str


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One graph: its file, its borders and what it costs. `parity` is None where it was not compared."""

    name: str = field(metadata={"from_key": True})
    file: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weight_bytes: int
    params: int
    flops: Flops
    source_sha256: str
    parity: Parity | None


@dataclass(frozen=True, slots=True)
class TableSpec:
    """An array that the host looks up."""

    name: str = field(metadata={"from_key": True})
    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Sizes of the language model that the host needs."""

    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_context: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The ids [start, end) of a vocabulary."""

    name: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many ids it has."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All token ids: segments that are sampled from, and controls by name."""

    size: int
    segments: tuple[Segment, ...]
    controls: Mapping[str, int]

    def segment(self, name: str) -> Segment:
        """The segment of that name. Raises InvalidBundleError."""
        for segment in self.segments:
            if segment.name == name:
                return segment
        known = ", ".join(segment.name for segment in self.segments)
        raise InvalidBundleError(f"vocabulary: there is no segment {name!r}; the segments are {known}")

    def control(self, name: str) -> int:
        """The id of a control token. Raises InvalidBundleError."""
        if name not in self.controls:
            raise InvalidBundleError(
                f"vocabulary: there is no control token {name!r}; they are {', '.join(self.controls)}"
            )
        return self.controls[name]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a model may write besides text."""

    image: ImageGrammar


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes `pixel_values`: `image_size` is [Y, X]; mean and std hold after division by 255."""

    image_size: tuple[int, int]
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    fit: Literal["pad"]
    pad_color: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class PatchSpec:
    """How pixels become the patches of a vision transformer: squares of `size`, `merge` x `merge` of them a feature."""

    size: int
    merge: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class AnySizePreprocessing:
    """How a picture of any size is read: its sides become multiples of `multiple`, its area stays within limits.

    A picture that is to be drawn again is padded to the nearest in shape of `anchors`, names of resolutions.
    """

    multiple: int
    min_pixels: int
    max_pixels: int
    max_side: int
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    anchors: tuple[str, ...]
    anchor_resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    pad_color: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patches: PatchSpec


@dataclass(frozen=True, slots=True)
class Scheduler:
    """How latents are denoised. `latent_shape` is [C, Y, X]."""

    type: Literal["flow"]
    solver: str
    latent_shape: tuple[int, int, int]
    shift: float
    default_steps: int
    max_steps: int


@dataclass(frozen=True, slots=True)
class NoiseScheduler:
    """How latents are denoised by a model that predicts noise: the levels of its training, and the solver.

    Square roots of beta are spaced evenly from `beta_start` to `beta_end`. Latents are [channels, rows, columns], with
    rows and columns `latents_per_code` times those of the last level's codes. `size_ids` are the numbers by which the
    model knows the resolutions. The last step ends at no noise, or at the `first` level of the training.
    """

    num_train_steps: int
    beta_start: float
    beta_end: float
    steps_offset: int
    solver: str
    latent_channels: int
    latents_per_code: int
    size_ids: Mapping[str, int]
    default_steps: int
    max_steps: int
    final_sigma: Literal["zero", "first"] = "zero"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole `bundle.json`."""

    format: Literal["illume-bundle"]
    schema_version: int
    family: str
    name: str
    precision: Literal["float32", "float16", "bfloat16", "int8"]
    tools: Mapping[str, str]
    files: Mapping[str, FileSpec]
    stages: Mapping[str, StageSpec]
    tables: Mapping[str, TableSpec]
    model: ModelSpec
    vocabulary: Vocabulary
    grammar: Grammar
    prompts: Prompts
    preprocessing: Preprocessing | AnySizePreprocessing
    scheduler: Scheduler | NoiseScheduler
    quantization: Quantization | None = None  # there exactly where the precision is int8


def manifest_from_json(data: Any) -> Manifest:
    """The manifest. Raises InvalidBundleError that begins with the path of what is wrong."""
    _check_version(data)
    try:
        return value_from_json(Manifest, data, "")
    except RecursionError:
        raise InvalidBundleError(f"{MANIFEST_NAME}: nested too deeply") from None
    except ValueError as error:
        raise InvalidBundleError(f"{MANIFEST_NAME}: {error}; export the checkpoint again") from None


def json_from_manifest(manifest: Manifest) -> dict[str, Any]:
    """The JSON data that `manifest_from_json` reads back as an equal manifest."""
    data: dict[str, Any] = json_from_value(manifest)
    return data


def _check_version(data: Any) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InvalidBundleError(f"{MANIFEST_NAME}: format is not {FORMAT!r}; this is no bundle")
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InvalidBundleError(f"{MANIFEST_NAME}: schema_version: got {version!r}, expected {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        tools = data.get("tools")
        writer = tools.get("illume-rt") if isinstance(tools, dict) else None
        reader = (
            f"illume-rt {writer} wrote it and can read it" if isinstance(writer, str) else "a newer one can read it"
        )
        raise InvalidBundleError(
            f"{MANIFEST_NAME}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this illume-rt "
            f"reads; {reader}: pip install --upgrade illume-rt"
        )

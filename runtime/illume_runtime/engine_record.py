"""What we know of an engine that we built: a TensorRT engine is native code, and is loaded only with its own record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from illume_runtime.device.protocol import Device
from illume_runtime.errors import EngineError
from illume_runtime.files import atomic_write, sha256_of
from illume_runtime.typed_json import json_from_text, json_from_value, value_from_json

BUILD = "illume build BUNDLE --target"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the engine; `dtype` is the data type of its first input, `weights` that of its constants.

    Both are as TensorRT says them ("Half", "Int8"), and empty where there is none.
    """

    name: str
    type: str
    dtype: str
    weights: str = ""


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """Beside each engine: `key` is the hash of the graph, the builder, the GPU and the options.

    `gpu` is what `gpu_of` says for TensorRT, which tunes an engine for one device; for TensorRT for RTX, whose engines
    run on every GPU of a compute capability, it is those, as in "8.6,8.9".
    `precision` is that of the engine's float parts and of its cache. Per profile, which gives each dynamic input its
    smallest, usual and largest shape, `activation_bytes` is what a context takes on the device. Of `attentions` in the
    graph, `fused` kernels were made, over all profiles; `caches` of its inputs are updated in place.
    """

    stage: str
    target: str
    builder: str
    gpu: str
    key: str
    onnx_sha256: str
    engine_sha256: str
    layers: tuple[Layer, ...]
    precision: str = "float16"
    profiles: tuple[Mapping[str, tuple[tuple[int, ...], ...]], ...] = ()
    activation_bytes: tuple[int, ...] = ()
    weight_bytes: int = 0
    attentions: int = 0
    fused: int = 0
    caches: int = 0


def gpu_of(device: Device) -> str:
    """The GPU that an engine of TensorRT is tuned for: boards of one compute capability differ in more than that."""
    major, minor = device.compute_capability
    return f"{major}.{minor} ({device.name}, {device.gpu.num_processors} multiprocessors)"


def record_path(engine: Path) -> Path:
    """Where the record of an engine is."""
    return engine.with_name(f"{engine.name}.json")


def write_record(engine: Path, record: EngineRecord) -> None:
    """Write it beside the engine, whole or not at all."""
    with atomic_write(record_path(engine)) as temporary:
        temporary.write_text(json.dumps(json_from_value(record), indent=1) + "\n")


def checked_record(engine: Path, *, target: str, builder: str, gpu: str, onnx_sha256: str) -> EngineRecord:
    """The record of an engine that may be loaded here. Raises EngineError: what differs, and what to run."""
    again = f"run: {BUILD} {target}"
    if not engine.is_file() or not record_path(engine).is_file():
        raise EngineError(f"{engine}: there is no engine with our record; {again}")
    try:
        record = value_from_json(EngineRecord, json_from_text(record_path(engine).read_text(encoding="utf-8")), "")
    except ValueError as error:
        raise EngineError(f"{record_path(engine)}: {error}; {again}") from None
    for what, got, expected in (
        ("target", record.target, target),
        ("graph", record.onnx_sha256, onnx_sha256),
        ("builder", record.builder, builder),
        ("GPU", record.gpu, gpu),
    ):
        if got != expected:
            raise EngineError(f"{engine}: was built for {what} {got}, expected {expected}; {again}")
    if sha256_of(engine) != record.engine_sha256:
        raise EngineError(f"{engine}: its bytes are not those that were built; {again}")
    return record

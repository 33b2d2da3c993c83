"""The tensors of a checkpoint folder, in one safetensors file or in shards: named at once, read one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from illume_export.deferred import Deferred
from illume_export.json_object import json_object_from_file
from illume_export.safetensors_header import StoredTensor, header_of
from illume_runtime.errors import InvalidCheckpointError

STEMS = ("model", "pytorch_model", "diffusion_pytorch_model")
VARIANTS = ("", ".fp16")
STORED_TYPES = ("F16", "BF16", "F32")
MAX_INDEX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Weights:
    """What a folder holds; `faults` are contradictions between its files, one phrase each."""

    folder: Path
    tensors: Mapping[str, StoredTensor]
    files: Mapping[str, Path]
    faults: tuple[str, ...]

    def read(self, name: str) -> torch.Tensor:
        """A tensor in the type in which it is stored. Raises InvalidCheckpointError."""
        path = self.files[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise InvalidCheckpointError(f"{path}: cannot be read ({error}); copy it again") from error
        return tensor


def deferred_from_weights(weights: Weights, name: str) -> Deferred:
    """A stored tensor that is read, each time, when its values are asked for."""

    def digest() -> bytes:
        tensor = weights.read(name).contiguous()
        return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data).digest()

    return Deferred(weights.tensors[name].shape, torch.float32, lambda: weights.read(name), digest)


def weights_from_folder(folder: Path) -> Weights:
    """The folder's tensors, from headers alone. Raises InvalidCheckpointError for a missing or damaged file."""
    if not folder.is_dir():
        raise InvalidCheckpointError(f"{folder}: no such folder; expected a checkpoint there")
    names = [f"{stem}{variant}.safetensors" for variant in VARIANTS for stem in STEMS]
    for name in names:
        if (folder / f"{name}.index.json").is_file():
            return _from_index(folder, folder / f"{name}.index.json")
        if (folder / name).is_file():
            return _from_files(folder, [folder / name])
    if any(folder.glob("*.bin")):
        raise InvalidCheckpointError(
            f"{folder}: holds pickled weights (.bin) only; make safetensors of them first: "
            f"illume convert {folder} -o NEW_FOLDER"
        )
    raise InvalidCheckpointError(f"{folder}: holds no weights; expected one of {', '.join(names)}, or its index")


def _from_index(folder: Path, index: Path) -> Weights:
    entries = json_object_from_file(index, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries.values()):
        raise InvalidCheckpointError(f"{index}: has no weight_map of names to files; copy it again")
    shards = sorted(set(entries.values()))
    outside = [name for name in shards if Path(name).name != name]
    if outside:
        raise InvalidCheckpointError(f"{index}: names the file {outside[0]!r}, expected a file of the same folder")
    weights = _from_files(folder, [folder / name for name in shards])
    faults = [*weights.faults]
    for name, shard in sorted(entries.items()):
        found = weights.files.get(name)
        if found is None or found.name != shard:
            faults.append(f"{name} is not in {shard}, where {index.name} has it")
    faults += [f"{name} is not in {index.name}" for name in sorted(weights.tensors.keys() - entries.keys())]
    return Weights(folder, weights.tensors, weights.files, tuple(faults))


def _from_files(folder: Path, paths: list[Path]) -> Weights:
    tensors: dict[str, StoredTensor] = {}
    files: dict[str, Path] = {}
    found: list[str] = []
    for path in paths:
        stored, duplicated = header_of(path)
        found += [f"duplicated {name}" for name in duplicated]
        for tensor in stored:
            if tensor.name in tensors and files[tensor.name] != path:
                found.append(f"duplicated {tensor.name}: in {files[tensor.name].name} and {path.name}")
            tensors[tensor.name], files[tensor.name] = tensor, path
    return Weights(folder, tensors, files, tuple(found))

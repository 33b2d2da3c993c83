"""Safetensors from legacy weights, which are pickles: only tensors are read, nothing in them is executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from illume_export.json_object import json_object_from_file
from illume_export.weights import MAX_INDEX_BYTES
from illume_runtime.errors import InvalidCheckpointError
from illume_runtime.files import atomic_directory

WRAPPERS = ("model", "state_dict")
KEPT_SUFFIXES = (".json", ".txt", ".jinja", ".md")
INDEX = ".bin.index.json"


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One file that was written: its tensors and their bytes."""

    path: str
    num_tensors: int
    num_bytes: int


def safetensors_from_folder(folder: Path, output: Path, *, ema: bool = False) -> tuple[ConvertedFile, ...]:
    """A new folder with safetensors in place of every .bin, and the configuration files as they are.

    Subfolders are converted too. `ema` takes the averaged weights where a file holds both. Raises
    InvalidCheckpointError; then nothing is written.
    """
    if not folder.is_dir():
        raise InvalidCheckpointError(f"{folder}: no such folder; expected one with .bin files")
    pickles = sorted(path for path in folder.rglob("*.bin") if path.is_file())
    if not pickles:
        raise InvalidCheckpointError(f"{folder}: holds no .bin file; there is nothing to convert")
    with atomic_directory(output) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in KEPT_SUFFIXES and not path.name.endswith(INDEX):
                _place(path, folder, target).write_bytes(path.read_bytes())
        converted = tuple(_convert(path, folder, target, ema) for path in pickles)
        for path in sorted(folder.rglob(f"*{INDEX}")):
            _convert_index(path, _place(path, folder, target))
    return converted


def tensors_from_pickle(path: Path, *, ema: bool = False) -> dict[str, torch.Tensor]:
    """Name -> tensor of a .bin file, out of the dictionary that a trainer may have put around it."""
    try:
        data: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise InvalidCheckpointError(
            f"{path}: holds more than tensors, or is damaged ({reason}); it is not loaded"
        ) from (error)
    if not isinstance(data, Mapping):
        raise InvalidCheckpointError(f"{path}: got {type(data).__name__}, expected a dictionary of tensors")
    if ema and "ema" not in data:
        raise InvalidCheckpointError(f"{path}: holds no averaged weights (ema); leave out --ema")
    wrapper = "ema" if ema else next((name for name in WRAPPERS if isinstance(data.get(name), Mapping)), None)
    tensors = data if wrapper is None else data[wrapper]
    strange = [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if strange or not tensors:
        raise InvalidCheckpointError(
            f"{path}: {', '.join(strange[:5]) or 'it'} {'are' if len(strange) > 1 else 'is'} no tensor; "
            f"expected a dictionary of tensors, bare or in {', '.join(('ema', *WRAPPERS))}"
        )
    return {str(name): value for name, value in tensors.items()}


def _convert(path: Path, folder: Path, target: Path, ema: bool) -> ConvertedFile:
    tensors = tensors_from_pickle(path, ema=ema)
    place = _place(path, folder, target).with_suffix(".safetensors")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, place)
    return ConvertedFile(place.relative_to(target).as_posix(), len(tensors), place.stat().st_size)


def _convert_index(path: Path, place: Path) -> None:
    data = json_object_from_file(path, max_bytes=MAX_INDEX_BYTES)
    entries = data.get("weight_map")
    if not isinstance(entries, dict):
        raise InvalidCheckpointError(f"{path}: has no weight_map of names to files; copy it again")
    data["weight_map"] = {name: str(file).removesuffix(".bin") + ".safetensors" for name, file in entries.items()}
    new = place.with_name(path.name.removesuffix(INDEX) + ".safetensors.index.json")
    new.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _place(path: Path, folder: Path, target: Path) -> Path:
    place = target / path.relative_to(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place

"""The model in a checkpoint folder, or one error that names everything wrong with it.

Weights may be stored as float16, bfloat16 or float32; they are loaded as float32.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from illume_export.families.illume.consistency import faults_of
from illume_export.json_object import json_object_from_file
from illume_export.models import Illume, IllumeConfig
from illume_export.safetensors_header import header_of
from illume_runtime.errors import InvalidCheckpointError

STORED_TYPES = ("F16", "BF16", "F32")


def illume_from_checkpoint(folder: str | Path) -> Illume:
    """The model, float32, in evaluation mode. Raises InvalidCheckpointError."""
    folder = Path(folder)
    config = config_from_checkpoint(folder)
    expected = _expected_shapes(folder, config)
    path = folder / "model.safetensors"
    _check_names_and_shapes(path, expected)
    weights: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in expected:
                weights[name] = file.get_tensor(name).to(torch.float32)
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidCheckpointError(f"{path}: cannot be read ({error}); copy it again") from error
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise InvalidCheckpointError(
            f"{path}: NaN or infinity in {', '.join(bad)}; the training diverged, use an earlier checkpoint"
        )
    model = Illume(config)
    model.load_state_dict(weights)
    return model.eval()


def config_from_checkpoint(folder: Path) -> IllumeConfig:
    """The configuration in config.json. Raises InvalidCheckpointError."""
    path = folder / "config.json"
    data = json_object_from_file(path)
    try:
        config = IllumeConfig.from_json(data)
    except ValueError as error:
        raise InvalidCheckpointError(f"{path}: {error}") from error
    if faults := faults_of(config):
        raise InvalidCheckpointError(f"{path}: {'; '.join(faults)}")
    return config


def _expected_shapes(folder: Path, config: IllumeConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor; built without memory, so that an absurd size in the file costs nothing."""
    try:
        with torch.device("meta"):
            state = Illume(config).state_dict()
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise InvalidCheckpointError(f"{folder / 'config.json'}: no model has these sizes ({error})") from error
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _check_names_and_shapes(path: Path, expected: dict[str, tuple[int, ...]]) -> None:
    tensors, duplicated = header_of(path)
    stored = {tensor.name: tensor for tensor in tensors}
    faults = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in stored]
    faults += [f"duplicated {name}" for name in duplicated]
    faults += [f"unexpected {name} {list(stored[name].shape)}" for name in sorted(stored.keys() - expected.keys())]
    for name, tensor in stored.items():
        if name not in expected:
            continue
        if tensor.shape != expected[name]:
            faults.append(f"{name} has shape {list(tensor.shape)}, expected {list(expected[name])}")
        if tensor.dtype not in STORED_TYPES:
            faults.append(f"{name} has type {tensor.dtype}, expected one of {', '.join(STORED_TYPES)}")
    if faults:
        raise InvalidCheckpointError(
            f"{path}: {len(faults)} tensors do not fit config.json: {'; '.join(faults)}; "
            "use the config.json that was saved with these weights"
        )

"""Which part of a checkpoint a folder is, by its files: a folder that is given for another part is told apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from illume_export.json_object import json_object_from_file
from illume_runtime.errors import InvalidCheckpointError

MODEL_TYPE = "illume_qwen2"
NAMES = {"mllm": "language model", "tokenizer": "vision tokenizer", "decoder": "diffusion decoder"}


def check_roles(folders: Mapping[str, Path]) -> None:
    """Raise InvalidCheckpointError if a folder is another part than the one that it stands for."""
    wrong = []
    for role, folder in folders.items():
        held = _held(folder)
        if held is not None and held != role:
            wrong.append(f"{folder} is {held if held not in NAMES else _of(held)}, expected {_of(role)}")
    if wrong:
        raise InvalidCheckpointError(
            f"{'; '.join(wrong)}; check which folder stands for {', '.join(f'--{role}' for role in NAMES)}"
        )


def _of(role: str) -> str:
    return f"the {NAMES[role]} (--{role})"


def _held(folder: Path) -> str | None:
    """The role, or words for what else is there; None where it is not clear."""
    if (folder / "unet").is_dir() and (folder / "vae").is_dir():
        return "decoder"
    if (folder / "mllm").is_dir() and (folder / "dualvitok").is_dir():
        return "a folder of all parts"
    if not (folder / "config.json").is_file():
        return None
    data = json_object_from_file(folder / "config.json")
    if "vq_model" in data:
        return "tokenizer"
    if data.get("model_type") == MODEL_TYPE:
        return "mllm"
    if "block_out_channels" in data:
        return "only a part of the diffusion decoder"
    return None

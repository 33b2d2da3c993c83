"""Token ids from tokenizer.json: nothing is assumed of where they are, and all of it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from illume_export.families.illume_plus.config import PlusVocabulary
from illume_export.json_object import json_object_from_file
from illume_runtime.errors import InvalidCheckpointError
from illume_runtime.limits import MAX_TOKENIZER_BYTES

CONTROLS = {
    "end": "<|im_end|>",
    "begin": "<|im_start|>",
    "pad": "<|endoftext|>",
    "start_of_image": "<start_of_image>",
    "end_of_image": "<end_of_image>",
    "end_of_line": "<end_of_line>",
    "start_of_level0": "<start_of_level0>",
    "end_of_level0": "<end_of_level0>",
    "start_of_level1": "<start_of_level1>",
    "end_of_level1": "<end_of_level1>",
}
SPECIAL_TOKENS_IDS = tuple(list(CONTROLS)[3:])  # the order in which config.json has them
TAG_SIZES = tuple(range(64, 1024 + 64, 64))


def vocabulary_from_file(path: Path, num_codes: tuple[int, int], config: Mapping[str, Any]) -> PlusVocabulary:
    """The ids of controls, size tags and codes. Raises InvalidCheckpointError.

    `num_codes` are the sizes of the two codebooks; `config` is config.json, whose `special_tokens_ids` must agree.
    """
    ids = _added_tokens(path)
    tags = {(side, size): f"<{side}_{size}>" for side in ("height", "width") for size in TAG_SIZES}
    missing = [text for text in (*CONTROLS.values(), *tags.values()) if text not in ids]
    if missing:
        raise InvalidCheckpointError(
            f"{path}: {len(missing)} tokens are missing from added_tokens, such as {missing[0]!r}; "
            "use the tokenizer.json that was saved with these weights"
        )
    controls = {name: ids[text] for name, text in CONTROLS.items()}
    listed = config.get("special_tokens_ids")
    if listed != [controls[name] for name in SPECIAL_TOKENS_IDS]:
        raise InvalidCheckpointError(
            f"{path}: has the ids {[controls[name] for name in SPECIAL_TOKENS_IDS]} of the image tokens, "
            f"config.json has special_tokens_ids {listed}; use files that were saved together"
        )
    levels = [_codes(path, ids, level, count) for level, count in enumerate(num_codes)]
    text_end = levels[0][0]
    above = [i for i in (*controls.values(), *(ids[t] for t in tags.values())) if i >= text_end]
    if levels[0][1] > levels[1][0] or above:
        raise InvalidCheckpointError(f"{path}: the ids of text, level 0 and level 1 are out of order")
    return PlusVocabulary(controls, {tag: ids[text] for tag, text in tags.items()}, levels[0], levels[1])


def _added_tokens(path: Path) -> dict[str, int]:
    added = json_object_from_file(path, max_bytes=MAX_TOKENIZER_BYTES).get("added_tokens")
    try:
        return {str(token["content"]): int(token["id"]) for token in added}  # type: ignore[union-attr]
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidCheckpointError(f"{path}: has no list added_tokens of ids and contents") from error


def _codes(path: Path, ids: Mapping[str, int], level: int, count: int) -> tuple[int, int]:
    """The range of ids of one level: as many as its codebook has codes, in their order, without a gap."""
    found = sum(text.startswith(f"<|image_level{level}_") for text in ids)
    if found != count:
        raise InvalidCheckpointError(
            f"{path}: has {found} codes of level {level}, the tokenizer's codebook has {count}; "
            "use parts of the same model"
        )
    start = ids.get(f"<|image_level{level}_0|>", -1)
    wrong = next((i for i in range(count) if ids.get(f"<|image_level{level}_{i}|>") != start + i), None)
    if wrong is not None:
        raise InvalidCheckpointError(f"{path}: <|image_level{level}_{wrong}|> is not the id {start + wrong}")
    return start, start + count

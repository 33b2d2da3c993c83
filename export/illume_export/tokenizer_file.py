"""The tokenizer of a checkpoint, checked: text must never become a control token."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tokenizers import Tokenizer

from illume_runtime.errors import InvalidCheckpointError
from illume_runtime.limits import MAX_TOKENIZER_BYTES


def tokenizer_from_file(path: Path, text_segment: tuple[int, int], controls: Collection[int]) -> bytes:
    """The file's bytes, after checking that what it encodes without added tokens is text and no control token.

    Raises InvalidCheckpointError.
    """
    if not path.is_file():
        raise InvalidCheckpointError(f"{path}: no such file; expected a tokenizer of the Hugging Face format")
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise InvalidCheckpointError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_TOKENIZER_BYTES}")
    data = path.read_bytes()
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise InvalidCheckpointError(f"{path}: no tokenizer ({error}); expected the Hugging Face format") from error
    start, end = text_segment
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    outside = sorted(token for token, i in vocabulary.items() if not start <= i < end or i in controls)
    if outside:
        raise InvalidCheckpointError(
            f"{path}: {len(outside)} tokens are not in the text segment [{start}, {end}) or are control tokens, "
            f"such as {outside[0]!r}; control tokens belong into added_tokens"
        )
    return data

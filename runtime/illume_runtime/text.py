"""Text as token ids and back. What a user types becomes plain text ids, whatever it looks like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from illume_runtime.bundle import Bundle
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.limits import MAX_PROMPT_CHARS, MAX_TOKENIZER_BYTES
from illume_runtime.manifest import Vocabulary
from illume_runtime.typed_json import json_from_text

UNFINISHED = "\ufffd"  # what the bytes of a character that is not complete decode to
LEFT_OUT = ("added_tokens", "post_processor", "truncation", "padding")  # whatever would add or cut ids


class TextTokenizer:
    """The bundle's tokenizer without its added tokens: it knows of no control token."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._tokenizer = tokenizer
        self._segment = vocabulary.segment("text")
        self._controls = frozenset(vocabulary.controls.values())
        self._prefix = self._decoded(self._encoded("a")).removesuffix("a")  # a space, in many tokenizers

    def encode(self, text: str, what: str = "the prompt") -> list[int]:
        """Ids of the text, each one in the text segment and none a control. Raises UsageError if it is too long.

        The context is not checked here: a text may fit its limit in characters and not the context.
        """
        if len(text) > MAX_PROMPT_CHARS:
            raise UsageError(f"{what} has {len(text)} characters, expected at most {MAX_PROMPT_CHARS}; shorten it")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"{what} is no valid text at character {error.start}; type it in UTF-8") from error
        ids = self._encoded(text)
        for identifier in ids:
            if identifier in self._controls or not self._segment.start <= identifier < self._segment.end:
                raise InvalidBundleError(
                    f"tokenizer.json: makes the id {identifier} from text, which is a control or outside of the text "
                    f"segment [{self._segment.start}, {self._segment.end}); export the checkpoint again"
                )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; controls are left out. Bytes that are no UTF-8 become U+FFFD."""
        return self._decoded([i for i in ids if i not in self._controls]).removeprefix(self._prefix)

    def stream(self) -> TextStream:
        """A decoder that takes one id at a time."""
        return TextStream(self)

    def _encoded(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


class TextStream:
    """Text from ids that come one at a time; together the pieces are what `TextTokenizer.decode` gives.

    A piece never ends inside a character: such bytes are held back until the character is complete.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # ids that are out; some decoders look at the one before
        self._held: list[int] = []
        self._prefix = tokenizer._prefix

    def push(self, identifier: int) -> str:
        """The text that the id completes; empty for a control or within a character."""
        if identifier in self._tokenizer._controls:
            return ""
        self._held.append(identifier)
        return self._piece(at_end=False)

    def finish(self) -> str:
        """What is still held back, with U+FFFD for an unfinished character."""
        return self._piece(at_end=True)

    def _piece(self, *, at_end: bool) -> str:
        text = self._tokenizer._decoded([*self._context, *self._held])
        if not self._held or (text.endswith(UNFINISHED) and not at_end):
            return ""
        piece = text[len(self._tokenizer._decoded(self._context)) :]
        self._context, self._held = self._held, []
        first, self._prefix = self._prefix, ""
        return piece.removeprefix(first)


def tokenizer_from_bundle(bundle: Bundle) -> TextTokenizer:
    """The tokenizer of `tokenizer.json`. Raises InvalidBundleError."""
    return tokenizer_from_file(bundle.path / "tokenizer.json", bundle.vocabulary)


def tokenizer_from_file(path: Path, vocabulary: Vocabulary) -> TextTokenizer:
    """The tokenizer of a file in the format of Hugging Face `tokenizers`. Raises InvalidBundleError."""
    num_bytes = path.stat().st_size
    if num_bytes > MAX_TOKENIZER_BYTES:
        raise InvalidBundleError(f"{path}: {num_bytes} bytes, expected at most {MAX_TOKENIZER_BYTES}")
    try:
        data = json_from_text(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidBundleError(f"{path}: no JSON: {error}; export the checkpoint again") from error
    if not isinstance(data, dict):
        raise InvalidBundleError(f"{path}: got {type(data).__name__}, expected an object; export the checkpoint again")
    data.update(dict.fromkeys(LEFT_OUT), added_tokens=[])
    try:
        tokenizer = Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises nothing narrower
        raise InvalidBundleError(f"{path}: no tokenizer: {error}; export the checkpoint again") from error
    return TextTokenizer(tokenizer, vocabulary)

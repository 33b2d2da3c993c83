"""The wire format of protocol buffers, as much of it as ONNX files need: onnx itself is not needed on a device."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator

Data = bytes | mmap.mmap
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are in no ONNX message
_SIZES = {FIXED64: 8, FIXED32: 4}


def fields(data: Data, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and end of the content of every field in the message at [start, end).

    Raises IndexError where it is malformed.
    """
    at = start
    while at < end:
        tag, at = varint(data, at, end)
        wire, start = tag & 7, at
        if wire == VARINT:
            _, at = varint(data, at, end)
        elif wire == DELIMITED:
            length, start = varint(data, at, end)
            at = start + length
        elif wire in _SIZES:
            at += _SIZES[wire]
        else:
            raise IndexError(f"wire type {wire} at byte {at}")
        if at > end:
            raise IndexError(f"a field ends behind its message, at byte {at}")
        yield tag >> 3, wire, start, at


def varint(data: Data, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, not negative, and where it ends. Raises IndexError."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise IndexError(f"a number is cut off at byte {at}")


def without(data: Data, start: int, end: int, numbers: Collection[int]) -> bytes:
    """The message at [start, end) without the fields of these numbers."""
    parts, at = [], start
    for number, _, _, stop in fields(data, start, end):
        if number not in numbers:
            parts.append(data[at:stop])
        at = stop
    return b"".join(parts)


def field(number: int, value: int | bytes) -> bytes:
    """A field: a number, not negative, as a varint, bytes with their length before them."""
    if isinstance(value, int):
        return _written(number << 3 | VARINT) + _written(value)
    return _written(number << 3 | DELIMITED) + _written(len(value)) + value


def _written(value: int) -> bytes:
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])

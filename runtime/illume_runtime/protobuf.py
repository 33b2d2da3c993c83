"""Protobuf messages as bytes, as far as ONNX files need it: neither the onnx package nor protobuf's own is at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from mmap import mmap
from typing import NamedTuple

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are in no ONNX message
_SIZES = {FIXED64: 8, FIXED32: 4}
Data = bytes | mmap


class Field(NamedTuple):
    """A field of a message: its content is at [start, end) of the data, `whole` is where its tag begins.

    `value` is the number where the field is one (a varint), else 0.
    """

    number: int
    wire: int
    whole: int
    start: int
    end: int
    value: int


def fields(data: Data, start: int, end: int) -> Iterator[Field]:
    """Every field of the message at [start, end), in order. Raises IndexError where it is malformed."""
    at = start
    while at < end:
        whole = at
        tag, at = varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        value, begin = 0, at
        if wire == VARINT:
            value, at = varint(data, at, end)
        elif wire == DELIMITED:
            length, begin = varint(data, at, end)
            at = begin + length
        elif wire in _SIZES:
            at += _SIZES[wire]
        else:
            raise IndexError(f"wire type {wire} at byte {at}")
        if at > end:
            raise IndexError(f"a field ends behind its message, at byte {at}")
        yield Field(number, wire, whole, begin, at, value)


def varint(data: Data, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, and where the next field begins. Raises IndexError."""
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
    """The message at [start, end) without the fields of these numbers. Raises IndexError."""
    return b"".join(data[item.whole : item.end] for item in fields(data, start, end) if item.number not in numbers)


def field(number: int, value: int | bytes | str) -> bytes:
    """A field in bytes: a number as a varint, anything else with its length before it."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number is its two's complement
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])

"""Values of declared types from JSON, strictly: a wrong type, a missing key and an unknown key are errors with a path.

Read are str, bool, int, float, None, Literal, `X | Y`, `tuple[X, ...]`, `tuple[X, Y]`, `Mapping[str, X]` and
dataclasses. A dataclass is an object whose keys are its fields. A field's metadata may say `json` (its key, where that
is not its name) or `from_key` (it is the key under which the object stands in a mapping). A field with a default may be
missing, and is not written where it has that value. Of several dataclasses the first field tells which one an object
is.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
NAMES = {str: "a string", bool: "true or false", int: "an integer", float: "a number"}


def json_from_text(text: str) -> Any:
    """JSON data. Raises ValueError also for what the standard forbids or leaves open: NaN, a key that stands twice."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def value_from_json(kind: type[T], data: Any, path: str) -> T:
    """The value of the declared type. Raises ValueError that begins with the path of the wrong key."""
    value: T = _value(kind, data, path, "")
    return value


def json_from_value(value: Any) -> Any:
    """The JSON data that `value_from_json` reads back as an equal value."""
    if is_dataclass(value):
        return {
            _key(field): json_from_value(getattr(value, field.name))
            for field in fields(value)
            if "from_key" not in field.metadata and getattr(value, field.name) != _default(field)
        }
    if isinstance(value, Mapping):
        return {key: json_from_value(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [json_from_value(item) for item in value]
    return value


def _value(kind: Any, data: Any, path: str, key: str) -> Any:
    if is_dataclass(kind):
        return _dataclass(kind, data, path, key)
    if kind in NAMES:
        return _scalar(kind, data, path)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if not any(data == choice and type(data) is type(choice) for choice in arguments):
            raise ValueError(f"{path}: got {_shown(data)}, expected {' or '.join(map(_shown, arguments))}")
        return data
    if origin in (Union, types.UnionType):
        return _union(arguments, data, path, key)
    if origin is tuple:
        return _tuple(arguments, data, path)
    if origin is Mapping:
        if not isinstance(data, dict):
            raise ValueError(f"{path}: got {_shown(data)}, expected an object")
        return types.MappingProxyType({k: _value(arguments[1], v, f"{path}.{k}", k) for k, v in data.items()})
    raise TypeError(f"{path}: a declaration of the type {kind} is not read from JSON")


def _scalar(kind: Any, data: Any, path: str) -> Any:
    allowed = (int, float) if kind is float else kind
    if not isinstance(data, allowed) or isinstance(data, bool) != (kind is bool):
        raise ValueError(f"{path}: got {_shown(data)}, expected {NAMES[kind]}")
    if kind is float and not abs(data) <= sys.float_info.max:
        raise ValueError(f"{path}: got a number that is too large")
    return kind(data)


def _union(choices: tuple[Any, ...], data: Any, path: str, key: str) -> Any:
    kinds = [choice for choice in choices if choice is not types.NoneType]
    if len(kinds) == 1 and is_dataclass(kinds[0]) and data is not None:
        return _value(kinds[0], data, path, key)
    if all(map(is_dataclass, choices)):
        tags = [_key(fields(choice)[0]) for choice in choices]
        for tag, choice in zip(tags, choices, strict=True):
            if isinstance(data, dict) and tag in data:
                return _value(choice, data, path, key)
        raise ValueError(f"{path}: got {_shown(data)}, expected an object with one of the keys {', '.join(tags)}")
    for choice in choices:
        if isinstance(data, choice) and isinstance(data, bool) == (choice is bool):
            return None if data is None else _scalar(choice, data, path)
    expected = " or ".join(NAMES.get(choice, "null") for choice in choices)
    raise ValueError(f"{path}: got {_shown(data)}, expected {expected}")


def _tuple(arguments: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise ValueError(f"{path}: got {_shown(data)}, expected a list")
    kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
    if len(data) != len(kinds):
        raise ValueError(f"{path}: got {len(data)} values, expected {len(kinds)}")
    return tuple(_value(kind, item, f"{path}[{i}]", "") for i, (kind, item) in enumerate(zip(kinds, data, strict=True)))


def _dataclass(kind: Any, data: Any, path: str, key: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{path}: got {_shown(data)}, expected an object")
    hints = get_type_hints(kind)
    declared = {_key(field): field for field in fields(kind) if "from_key" not in field.metadata}
    values = {field.name: key for field in fields(kind) if "from_key" in field.metadata}
    unknown = [name for name in data if name not in declared]
    if unknown:
        raise ValueError(f"{_join(path, unknown[0])}: unknown key; the keys here are {', '.join(declared)}")
    for name, field in declared.items():
        if name in data:
            values[field.name] = _value(hints[field.name], data[name], _join(path, name), name)
        elif _default(field) is MISSING:
            raise ValueError(f"{_join(path, name)}: missing key")
    return kind(**values)


def _default(field: Field[Any]) -> Any:
    """The value of a key that may be missing; MISSING where it may not."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _key(field: Field[Any]) -> str:
    return str(field.metadata.get("json", field.name))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(data: Any) -> str:
    text = json.dumps(data, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")

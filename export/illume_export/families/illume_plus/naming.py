"""Which stored tensor is which parameter: by the end of its name and its exact shape.

Trainers wrap a model and put the wrapper's name in front of each parameter's. What is compared is the name without
such prefixes, and of it the longest end that is the name of a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from illume_export.weights import STORED_TYPES, Weights

PREFIXES = ("module.", "base_model.model.", "base_model.", "language_model.")
DOUBLED = "model.model."


@dataclass(frozen=True, slots=True)
class Matching:
    """Parameter -> stored name, and what does not fit, one phrase each."""

    sources: Mapping[str, str]
    faults: tuple[str, ...]


def bare_name(name: str) -> str:
    """The name without the prefixes of wrappers."""
    while True:
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        if prefix is not None:
            name = name.removeprefix(prefix)
        elif name.startswith(DOUBLED):
            name = name.removeprefix("model.")
        else:
            return name


def matching_of(
    weights: Weights, expected: Mapping[str, tuple[int, ...]], *, ignored: Sequence[str], optional: Sequence[str] = ()
) -> Matching:
    """Match each expected parameter with exactly one stored tensor.

    `ignored` are regular expressions of bare names that may be left over; `optional` parameters may be missing.
    """
    candidates: dict[str, list[str]] = {}
    left_over = []
    for name in weights.tensors:
        bare = bare_name(name)
        parameter = _longest_end(bare, expected)
        if parameter is not None:
            candidates.setdefault(parameter, []).append(name)
        elif not any(re.search(pattern, bare) for pattern in ignored):
            left_over.append(name)
    faults = list(weights.faults)
    sources: dict[str, str] = {}
    for parameter, shape in expected.items():
        names = candidates.get(parameter, [])
        if not names and parameter not in optional:
            faults.append(f"missing {parameter} {list(shape)}")
        if len(names) > 1:
            faults.append(f"duplicated {parameter}: {' and '.join(sorted(names))}")
        for name in names:
            stored = weights.tensors[name]
            if stored.shape != shape:
                faults.append(f"{name} has shape {list(stored.shape)}, expected {list(shape)}")
            if stored.dtype not in STORED_TYPES:
                faults.append(f"{name} has type {stored.dtype}, expected one of {', '.join(STORED_TYPES)}")
            sources[parameter] = name
    faults += [f"unexpected {name} {list(weights.tensors[name].shape)}" for name in sorted(left_over)]
    return Matching(sources, tuple(faults))


def _longest_end(name: str, expected: Mapping[str, tuple[int, ...]]) -> str | None:
    while name not in expected:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name

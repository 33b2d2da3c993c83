"""A size that a bundle may have at most: bytes with a unit, or a share of the float bundle."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Final

UNITS: Final = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
EXAMPLES: Final = "a size such as 16MB or 1.5GiB, or a share of the float bundle such as 0.3x"


@dataclass(frozen=True, slots=True)
class TargetSize:
    """What was asked for, as it was written; `factor` bytes, or `factor` times the float bundle."""

    text: str
    factor: float
    is_share: bool

    def num_bytes(self, float_bytes: int) -> int:
        """The most bytes that the quantized bundle may have beside a float one of this size."""
        return int(self.factor * (float_bytes if self.is_share else 1))


def target_size(text: str) -> TargetSize:
    """The size that is meant. Raises ArgumentTypeError."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*(x|{'|'.join(UNITS)})", text)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"expected {EXAMPLES}, got {text!r}")
    is_share = found[2] == "x"
    return TargetSize(text, float(found[1]) * (1 if is_share else UNITS[found[2]]), is_share)

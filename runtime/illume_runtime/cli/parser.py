"""The argument parser of a verb: errors in one line, options that several verbs share, values checked at the border."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NoReturn

from illume_runtime.errors import UsageError
from illume_runtime.residency import RESIDENCIES

DEVICES = ("cpu", "cuda", "tensorrt")
GIB = 1 << 30
QUALITIES = ("draft", "standard", "best")  # as in `sampling.py`, which needs numpy


class VerbParser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError (exit code 2, one line) and accepts no abbreviated options."""

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise UsageError where argparse would print its usage and exit."""
        raise UsageError(f"{message}; see {self.prog} --help")


def example(parser: argparse.ArgumentParser, command: str) -> None:
    """End the help with a command that works as printed, after `make demo`."""
    parser.epilog = f"example:\n  {command}"


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, which every verb takes."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def add_running(parser: argparse.ArgumentParser) -> None:
    """What every verb that runs a model takes: the bundle, --device, --threads, --trace and --json."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that `illume export` made")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to run, never anywhere else (cpu)")
    parser.add_argument(
        "--threads", type=count_up_to(1024), metavar="T", help="threads of a stage, at most (all cores)"
    )
    parser.add_argument(
        "--memory", type=memory_size, metavar="SIZE", help="what it may take, such as 12GiB (what is free)"
    )
    parser.add_argument(
        "--residency",
        choices=RESIDENCIES,
        default="all",
        help="which stages stay in memory: all that were used, or staged: those that work at the same time (all)",
    )
    parser.add_argument("--trace", metavar="FILE", help="write a trace for ui.perfetto.dev")
    parser.add_argument("--no-verify", action="store_true", help="do not hash the bundle's files before using them")
    add_json(parser)


def add_text_sampling(parser: argparse.ArgumentParser) -> None:
    """How the tokens of an answer are chosen; what is not given comes from the bundle's generation_config.json."""
    parser.add_argument("--max-tokens", type=count_up_to(4096), metavar="N", help="longest answer")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="seed of the random choice (0)")
    _add_filters(parser)


def add_image_sampling(parser: argparse.ArgumentParser, *, max_steps: int) -> None:
    """How visual tokens and latents are chosen; what is not given comes from the bundle's generation_config.json."""
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="the same seed gives the same picture (0)")
    parser.add_argument("--steps", type=count_up_to(max_steps), metavar="K", help="diffusion steps")
    parser.add_argument("--guidance", type=number_from(0, 100), metavar="G", help="guidance of the visual tokens")
    parser.add_argument(
        "--diffusion-guidance", type=number_from(0, 100), metavar="G", help="guidance of the diffusion steps"
    )
    parser.add_argument(
        "--quality",
        choices=QUALITIES,
        help="draft: the fast decoder, if there is one; best: more diffusion steps",
    )
    parser.add_argument(
        "--repetition-penalty", type=number_from(0.01, 100), metavar="R", help="of visual tokens; 1: none (1)"
    )
    parser.add_argument(
        "--double-sampling",
        action="store_true",
        default=None,
        help="filter visual tokens twice, as the public implementation of ILLUME+ does; for comparisons only",
    )
    _add_filters(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=number_from(0, 100), metavar="X", help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=count_from_zero, metavar="K", help="choose among K tokens, 0: all")
    parser.add_argument("--top-p", type=number_from(0, 1), metavar="P", help="choose among the likeliest with sum P")
    parser.add_argument("--min-p", type=number_from(0, 1), metavar="P", help="drop tokens below P of the likeliest")


def count_up_to(limit: int) -> Callable[[str], int]:
    """A parser of whole numbers from 1 to `limit`."""

    def parse(text: str) -> int:
        value = _whole(text)
        if not 1 <= value <= limit:
            raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {limit}, got {value}")
        return value

    return parse


def memory_size(text: str) -> int:
    """Bytes of a size such as 8GiB or 8GB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|GB)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 8GiB or 8GB, got {text!r}")
    return int(float(found[1]) * (GIB if found[2] == "GiB" else 10**9))


def number_from(low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers from `low` to `high`; NaN is refused."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text}")
        return value

    return parse


def count_from_zero(text: str) -> int:
    """A whole number, 0 or more."""
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {value}")
    return value


def seed(text: str) -> int:
    """An unsigned 64-bit number."""
    value = _whole(text)
    if not 0 <= value < 2**64:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 2**64 - 1, got {value}")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None

"""Errors that a user can cause or meet: one line of text and the exit code of the command line."""

from __future__ import annotations

from typing import ClassVar


class IllumeError(Exception):
    """Any error of this project. `str(error)` is one line: what was got, what was expected, what to do."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return " ".join(line.strip() for line in super().__str__().splitlines() if line.strip())


class UsageError(IllumeError, ValueError):
    """A wrong argument, option or input file."""

    exit_code = 2


class UnavailableError(IllumeError, RuntimeError):
    """This machine or installation cannot do it: a package, a device, room on the disk or a permission is missing."""

    exit_code = 3


class InvalidBundleError(IllumeError, ValueError):
    """A bundle that is damaged, malformed or from a newer version."""

    exit_code = 4


class InvalidCheckpointError(IllumeError, ValueError):
    """A checkpoint that is damaged, malformed or of another model."""

    exit_code = 4


class ExportError(IllumeError, RuntimeError):
    """A graph could not be made."""

    exit_code = 5


class QualityError(IllumeError, RuntimeError):
    """A result is further from the reference than its tolerance allows."""

    exit_code = 6


class MemoryLimitError(IllumeError, RuntimeError):
    """The memory does not suffice: predicted, or found out."""

    exit_code = 7


class EngineError(IllumeError, RuntimeError):
    """A session or an engine cannot be made here, or failed while it ran."""

    exit_code = 8


class Cancelled(IllumeError, RuntimeError):  # noqa: N818 - what happened, not what went wrong
    """The caller asked to stop."""

    exit_code = 130

"""Files and folders that appear whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from illume_runtime.errors import UsageError

BLOCK_BYTES = 1024 * 1024


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to it at the end, removed on any exception, an interruption too.

    The suffix is kept, and an existing file is replaced. An OSError about the output names `path`.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with _output_errors(path, temporary):
            yield temporary
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_directory(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """A new empty folder beside `path`: renamed to it at the end, removed on any exception, an interruption too.

    With `replace`, a folder that stands at `path` is removed once the new one is complete. Missing parents are made.
    Raises UsageError if something stands there and is not to be replaced. An OSError about the output names `path`.
    """
    path = Path(path)
    temporary = _beside(path)
    _refuse_existing(path, replace)
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        with _output_errors(path, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            _refuse_existing(path, replace)
            _move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _beside(path: Path) -> Path:
    """A name that is free, no longer than that of the path itself where that is long."""
    return path.with_name(f".{path.stem[:16]}.{secrets.token_hex(4)}{path.suffix}")


def _refuse_existing(path: Path, replace: bool) -> None:
    if path.exists() and not (replace and path.is_dir()):
        raise UsageError(f"{path} exists already; remove it, or choose another name")


def _move_into_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.replace(path)
        return
    old = _beside(path)
    path.replace(old)
    try:
        temporary.replace(path)
    except BaseException:
        old.replace(path)
        raise
    shutil.rmtree(old)


@contextmanager
def _output_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Let an OSError about the temporary name, or about none (the disk is full), name the output itself."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if error.errno is None or (name is not None and temporary.name not in str(name)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error

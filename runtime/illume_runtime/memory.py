"""What memory is left, asked before much of it is taken: the system would promise it and end the process later."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from illume_runtime.errors import MemoryLimitError

RESERVE_BYTES: Final = 512 << 20  # left to activations and caches where weights are placed, a quarter at most
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGE_BLOCK: Final = 1 << 20
LARGEST_IN_HEAP: Final = 32 << 20  # what glibc raises its threshold to by itself, with twice that for trimming
_limit_bytes: int | None = None  # of this process, as its user set it
_mapped: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()  # owner -> bytes of its mapped weights


def limit_memory(num_bytes: int | None) -> None:
    """Hold this process to so many bytes, those that it has already among them; None: to what the system has."""
    global _limit_bytes
    _limit_bytes = num_bytes


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Within it glibc gives every block of 1 MiB or more back to the system as soon as it is freed.

    Else it keeps blocks of up to 32 MiB, which makes a stage of many matrices take twice its weights from its loading
    on: each matrix is there in two forms for a while. Afterwards the thresholds are those that glibc would come to.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        yield
        return
    mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    try:
        yield
    finally:
        mallopt(M_MMAP_THRESHOLD, LARGEST_IN_HEAP)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_IN_HEAP)


def count_mapped(owner: object, num_bytes: int) -> None:
    """Weights that `owner` maps from disk count as taken as long as it lives, read yet or not."""
    _mapped[owner] = num_bytes


def fits(num_bytes: int) -> bool:
    """Whether so many bytes of weights can be taken, with something left beside them; yes if it is not known."""
    available = available_memory_bytes()
    return available is None or fits_into(num_bytes, available)


def fits_into(num_bytes: int, available: int) -> bool:
    """`fits` for an amount that is left."""
    return num_bytes <= available - min(RESERVE_BYTES, available // 4)


def check_memory(num_bytes: int, what: str, remedy: str) -> None:
    """Raises MemoryLimitError if so many bytes are not left; where the system does not tell, nothing is refused."""
    available = available_memory_bytes()
    if available is not None and num_bytes > available:
        raise MemoryLimitError(
            f"{what} takes {num_bytes / 1e6:.0f} MB of memory, but {available / 1e6:.0f} MB are left; {remedy}"
        )


def available_memory_bytes() -> int | None:
    """Bytes that this process can still take: without swapping, within its control group and the limit set for it.

    None if it is not known.
    """
    system = _system_bytes()
    if _limit_bytes is None:
        return system
    own = _limit_bytes - (_kilobytes("/proc/self/status", "RssAnon:") or 0) - sum(_mapped.values())
    return max(own if system is None else min(system, own), 0)


def _system_bytes() -> int | None:
    system = _kilobytes("/proc/meminfo", "MemAvailable:")
    limit = _text_of("/sys/fs/cgroup/memory.max").strip()
    used = _text_of("/sys/fs/cgroup/memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return system
    reclaimable = _number_of("/sys/fs/cgroup/memory.stat", "inactive_file") or 0
    left = max(int(limit) - int(used) + reclaimable, 0)
    return left if system is None else min(system, left)


def _kilobytes(path: str, name: str) -> int | None:
    number = _number_of(path, name)
    return None if number is None else number * 1024


def _number_of(path: str, name: str) -> int | None:
    for line in _text_of(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

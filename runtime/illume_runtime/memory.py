"""What memory is left, asked before much of it is taken: the system would promise it and end the process later."""

from __future__ import annotations

from pathlib import Path

from illume_runtime.errors import MemoryLimitError


def check_memory(num_bytes: int, what: str, remedy: str) -> None:
    """Raises MemoryLimitError if so many bytes are not left; where the system does not tell, nothing is refused."""
    available = available_memory_bytes()
    if available is not None and num_bytes > available:
        raise MemoryLimitError(
            f"{what} takes {num_bytes / 1e6:.0f} MB of memory, but {available / 1e6:.0f} MB are left; {remedy}"
        )


def available_memory_bytes() -> int | None:
    """Bytes that this process can still take without swapping, within its control group; None if it is not known."""
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

"""Memory that is not there is known before it is taken."""

import ctypes
import os
import subprocess
import sys

import pytest

from illume_runtime import memory
from illume_runtime.errors import MemoryLimitError
from illume_runtime.memory import available_memory_bytes, check_memory
from illume_runtime.pipeline import ImageSampling, Pipeline

MEMINFO = "MemTotal:  8000 kB\nMemFree: 10 kB\nMemAvailable:  4000 kB\n"
STAT = "anon 1\ninactive_file 500\nactive_file 7\n"


@pytest.fixture
def files(monkeypatch):
    """Contents by path that stand for the system's; all others do not exist."""
    contents = {}
    monkeypatch.setattr(memory, "_text_of", lambda path: contents.get(path, ""))
    return contents


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({}, None),
        ({"/proc/meminfo": "MemTotal: 8 kB\n"}, None),
        ({"/proc/meminfo": MEMINFO}, 4000 * 1024),
        ({"/proc/meminfo": MEMINFO, "memory.max": "max\n", "memory.current": "9\n"}, 4000 * 1024),
        ({"/proc/meminfo": MEMINFO, "memory.max": "9000\n", "memory.current": "3000\n"}, 6000),
        ({"/proc/meminfo": MEMINFO, "memory.max": "9000", "memory.current": "3000", "memory.stat": STAT}, 6500),
        ({"memory.max": "9000", "memory.current": "9100"}, 0),
        ({"/proc/meminfo": MEMINFO, "memory.max": str(10**12), "memory.current": "3000"}, 4000 * 1024),
    ],
)
def test_what_is_left_is_the_lesser_of_system_and_control_group(files, contents, expected):
    files.update({name if name.startswith("/") else f"/sys/fs/cgroup/{name}": text for name, text in contents.items()})
    assert available_memory_bytes() == expected


def test_this_machine_has_some():
    check_memory(1, "a byte", "")


def test_a_cache_that_does_not_fit_is_refused_and_a_smaller_one_works(bundle, monkeypatch):
    sampling = ImageSampling(temperature=1.0, steps=1)
    with Pipeline.load(bundle, threads=1) as pipeline:
        expected = pipeline.draw("a", sampling=sampling)[0].codes[0].tolist()
        monkeypatch.setattr(memory, "available_memory_bytes", lambda: 1_000_000)
        with pytest.raises(MemoryLimitError, match=r"the cache of \d+ sequences takes \d+ MB of memory, but 1 MB are"):
            pipeline.draw("a", n=64, sampling=sampling)
        assert pipeline.draw("a", sampling=sampling)[0].codes[0].tolist() == expected


BLOCKS = """
import ctypes, sys
from contextlib import nullcontext
from illume_runtime.memory import freed_at_once

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

def filled(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block

libc.free(filled(31 << 20))  # from now on the heap keeps blocks of that size
before = resident_mb()
with freed_at_once() if sys.argv[1] == "apart" else nullcontext():
    blocks = [filled(4 << 20) for _ in range(50)]
    last = filled(900 << 10)  # stands behind them, so that the heap cannot shrink
    held = resident_mb() - before
    for block in blocks:
        libc.free(block)
print(held, resident_mb() - before)
"""


@pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="another C library")
@pytest.mark.parametrize(("how", "is_kept"), [("apart", False), ("as ever", True)])
def test_blocks_of_weights_go_back_as_soon_as_they_are_freed(how, is_kept):
    done = subprocess.run([sys.executable, "-c", BLOCKS, how], check=True, capture_output=True, text=True)
    held, after = map(float, done.stdout.split())
    assert held > 200
    assert (after > 150) == is_kept


def test_without_glibc_nothing_is_set(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with memory.freed_at_once():
        pass

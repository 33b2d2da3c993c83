"""Runs kernel launches on the CPU: kernels.cu compiled by g++ with the shim, arguments passed as the driver does."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CUDA = Path(os.environ.get("ILLUME_CUDA_SOURCE", ROOT / "kernels" / "illume_kernels" / "cuda"))  # see mutations.py
SHIM = Path(__file__).parent / "shim"
SCHEDULES = ("forward", "reverse", "random", "block first", "block last", "warp")
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-w")
# As on a GPU, what is loaded from an address that does not suit its size ends the process.
ALIGNED = ("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")
SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


def compiled(cuda=CUDA):
    """The shared library of that source, made once for each content and set of flags; None without a compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return None
    flags = (*FLAGS, *(SANITIZE if os.environ.get("ILLUME_SANITIZE") else ALIGNED))
    digest = hashlib.sha256(repr(flags).encode())
    for path in sorted((*cuda.iterdir(), *SHIM.iterdir())):
        digest.update(path.read_bytes())
    library = ROOT / "build" / "shim" / f"{digest.hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}")
        command = [compiler, *flags, f"-I{cuda}", f"-I{SHIM}", "-o", str(part), str(SHIM / "entry.cpp")]
        subprocess.run(command, check=True)
        part.rename(library)
    return library


class CpuDevice:
    def __init__(self, library):
        self._library = ctypes.CDLL(str(library))
        self._library.illume_launch.restype = ctypes.c_char_p

    def run(self, launch, schedule="forward", seed=1):
        values = [np.array([argument]) for argument in launch.arguments]
        addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = (ctypes.c_size_t * len(values))(*(value.itemsize for value in values))
        error = self._library.illume_launch(
            launch.symbol.encode(),
            addresses,
            sizes,
            ctypes.c_size_t(len(values)),
            (ctypes.c_uint * 3)(*launch.grid),
            launch.block,
            launch.cluster,
            launch.shared_bytes,
            SCHEDULES.index(schedule),
            ctypes.c_ulonglong(seed),
        )
        if error is not None:
            raise RuntimeError(f"{launch.symbol}: {error.decode()}")

"""A process with a fake NVIDIA driver: the real packages run on it, and the CUDA source on the CPU."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests" / "kernels"))


def library_folder():
    """The folder with libcuda.so.1, made once for each content; None without a compiler."""
    from cpu_device import compiled

    if compiled() is None:
        return None
    source = HERE / "fake_driver.cpp"
    folder = ROOT / "build" / "fake-driver" / hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{os.getpid()}.so"
        command = [
            os.environ.get("CXX", "g++"),
            "-std=c++17",
            "-O1",
            "-fPIC",
            "-shared",
            "-w",
            "-Wl,-soname,libcuda.so.1",
        ]
        subprocess.run([*command, "-o", str(part), str(source), "-ldl"], check=True)
        part.rename(library)
    return folder


def environment(**settings):
    """Variables of a process with the fake driver; settings as FAKE_CAPABILITY=87."""
    from cpu_device import compiled

    found = {key: value for key, value in os.environ.items() if not key.startswith("FAKE_")}
    return found | {"LD_LIBRARY_PATH": str(library_folder()), "ILLUME_SHIM": str(compiled())} | settings


def run(words, **settings):
    """A Python process on the fake machine."""
    return subprocess.run(
        [sys.executable, *words], env=environment(**settings), capture_output=True, text=True, timeout=300
    )

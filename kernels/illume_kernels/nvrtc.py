"""Compiles the kernels where no prebuilt binary fits: NVIDIA's run-time compiler, loaded when it is needed."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from illume_kernels.source import source_files

_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_OPTIONS = ("--std=c++17", "-default-device")


def cubin_from_source(compute_capability: tuple[int, int], library: Path | None = None) -> bytes:
    """The kernels for one GPU architecture, in seconds. `library`: libnvrtc (default: as found on this machine).

    RuntimeError where NVRTC is not installed or refuses, with its log.
    """
    nvrtc = _loaded(library)
    files = source_files()
    headers = {name: text for name, text in files.items() if name != "kernels.cu"}
    program = ctypes.c_void_p()
    names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
    source = files["kernels.cu"].encode()
    _check(
        nvrtc,
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", len(headers), texts, names),
        "cannot create a program",
    )
    try:
        options = (*_OPTIONS, f"--gpu-architecture=sm_{compute_capability[0]}{compute_capability[1]}")
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc.nvrtcCompileProgram(program, len(options), given)
        _check(nvrtc, status, _log(nvrtc, program) if status else "")
        return _text(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _loaded(library: Path | None) -> ctypes.CDLL:
    packages = [Path(entry) / "nvidia" for entry in sys.path if entry]
    installed = (p for folder in packages for name in _NAMES for p in sorted(folder.glob(f"*/lib/{name}")))
    for candidate in [str(library)] if library else [*_NAMES, *map(str, installed)]:
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise RuntimeError(
        f"NVRTC: {library or ', '.join(_NAMES)} cannot be loaded; install nvidia-cuda-nvrtc (CUDA 13) or "
        "nvidia-cuda-nvrtc-cu12 (CUDA 12) to match the driver"
    )


def _check(nvrtc: ctypes.CDLL, status: int, message: str) -> None:
    if status != 0:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status).decode()}: {message}")


def _log(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    return _text(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    content = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, content), what)
    return content.raw

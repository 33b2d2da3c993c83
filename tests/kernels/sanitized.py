"""Runs the tests of the kernels under the sanitizers of addresses and undefined behaviour; takes pytest's options."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main():
    library = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "ILLUME_SANITIZE": "1",
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    tests = [str(FOLDER / name) for name in ("test_sample_kernel.py", "test_step_kernels.py")]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests, *sys.argv[1:]]
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Runs the tests of the kernels under the sanitizers of addresses and undefined behaviour; takes pytest's options."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
TESTS = ("sample_kernel", "gumbel_kernel", "step_kernels", "head_kernel")


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
    tests = [str(FOLDER / f"test_{name}.py") for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not gpu", "-p", "no:cacheprovider", *tests]
    command += sys.argv[1:]
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())

"""`.ci/run` with a `make` that makes nothing."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "run"
LOUD = "WARNING: TensorRT for RTX COULD NOT BE INSTALLED"


@pytest.mark.parametrize(("failing", "code"), [("", 0), ("engines", 0), ("engines test", 2), ("test", 2)])
def test_the_last_lines_say_that_no_engine_was_tested(tmp_path, failing, code):
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "made $1"\ncase " {failing} " in *" $1 "*) exit 2;; esac\n')
    make.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run([SCRIPT], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert "made test" in ran.stdout
    assert ("made check" in ran.stdout) == ("test" not in failing)
    assert any(LOUD in line for line in ran.stdout.splitlines()[-3:]) == ("engines" in failing)

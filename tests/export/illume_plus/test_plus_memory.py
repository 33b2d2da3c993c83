"""What `illume plan` says is what a process takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURED = """
import sys
from illume_runtime.machine import peak_memory_bytes
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling
from illume_runtime.profile.picture import measuring_picture
pipeline = Pipeline.load(sys.argv[2], threads=1, verify=False)
if sys.argv[1] == "describe":
    pipeline.describe(measuring_picture(), sampling=TextSampling(max_tokens=8))
else:
    sampling = ImageSampling(quality=sys.argv[1].split()[1], steps=1)
    pipeline.draw("a red circle", size="256x256", sampling=sampling)
print(peak_memory_bytes())
"""


@pytest.mark.parametrize("kind", ["describe", "draw draft", "draw standard"])
def test_a_planned_peak_is_within_a_tenth_of_the_measured_one(published_bundle: Path, kind: str) -> None:
    words = [sys.executable, "-m", "illume_runtime", "plan", str(published_bundle)]
    words += ["--device", "cpu", "--size", "256x256", "--json"]
    plan = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    words = [sys.executable, "-c", MEASURED, kind, str(published_bundle)]
    measured = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert plan["requests"][kind]["all"] == pytest.approx(measured, rel=0.1)

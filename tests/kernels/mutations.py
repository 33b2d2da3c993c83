"""Changes one thing in the CUDA source at a time and counts how many of the changes the tests on a CPU notice.

`python tests/kernels/mutations.py [sample | others] [-o results.json] [--first N] [--limit N]`
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from changes import EQUIVALENT, OTHER_CHANGES, SAMPLE_CHANGES
from cpu_device import CUDA, ROOT, compiled

BARRIER = re.compile(
    r"^\s*(__syncthreads\(\)|board\.sync\(\)|board\.open\(\)|board\.close\(\)|cluster_sync\(\));", re.M
)


class Suite(NamedTuple):
    changes: tuple
    files: tuple  # whose barriers are taken out
    tests: tuple


SUITES = {
    "sample": Suite(SAMPLE_CHANGES, ("sample.cuh", "select.cuh", "board.cuh", "row.cuh"), ("test_sample_kernel.py",)),
    "others": Suite(
        OTHER_CHANGES,
        ("gumbel.cuh", "guidance_step.cuh", "advance_step.cuh"),
        ("test_gumbel_kernel.py", "test_step_kernels.py", "test_head_kernel.py"),
    ),
}
"""By name: `sample`, and the kernels around it."""


def mutations(suite):
    """(name, file, text) of every change, also of every barrier that is taken out. ValueError where the list is old."""
    for name, old, new in suite.changes:
        text = (CUDA / name).read_text()
        if text.count(old) == 0:
            raise ValueError(f"{name} holds no {old!r}: adapt the list")
        yield f"{name}: {old!r} -> {new!r}", name, text.replace(old, new, 1)
    for name in suite.files:
        text = (CUDA / name).read_text()
        for found in BARRIER.finditer(text):
            line = text.count("\n", 0, found.start(1)) + 1
            yield f"{name}:{line}: without {found[1]}", name, text[: found.start(1)] + text[found.end(1) :]


def is_noticed(source, command):
    """Whether the tests fail on that source. ValueError where it does not compile, RuntimeError where none were run."""
    try:
        library = compiled(source)
    except subprocess.CalledProcessError:
        raise ValueError("does not compile") from None
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "ILLUME_CUDA_SOURCE": str(source)},
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        if source != CUDA:
            library.unlink()
    if done.returncode > 1:
        raise RuntimeError(
            f"pytest gave {done.returncode}, expected 0 or 1: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.returncode != 0


def outcomes(chosen, command):
    """Yields (name, what came of it) of each change: caught, SURVIVED, or INVALID where it does not compile."""
    for what, name, text in chosen:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "cuda"
            shutil.copytree(CUDA, source)
            (source / name).write_text(text)
            try:
                yield what, "caught" if is_noticed(source, command) else "SURVIVED"
            except ValueError:
                yield what, "INVALID"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help="sample, others (default: both)")
    parser.add_argument("-o", "--output", type=Path, help="JSON, where the results of other suites stay")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    every = {name: list(mutations(suite)) for name, suite in SUITES.items()}
    unknown = EQUIVALENT.keys() - {what for changes in every.values() for what, _, _ in changes}
    if unknown:
        raise ValueError(f"EQUIVALENT holds {sorted(unknown)}, which are no changes: adapt it")
    is_good = True
    for suite in given.suites or SUITES:
        tests = [str(Path(__file__).with_name(name)) for name in SUITES[suite].tests]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not gpu", "-p", "no:cacheprovider", *tests]
        if is_noticed(CUDA, command):
            raise RuntimeError(f"{suite}: the tests fail on the source as it is")
        possible = [change for change in every[suite] if change[0] not in EQUIVALENT]
        chosen = possible[given.first :][: given.limit]
        found = {"caught": [], "SURVIVED": [], "INVALID": []}
        for i, (what, outcome) in enumerate(outcomes(chosen, command)):
            found[outcome].append(what)
            print(f"{suite} {i + 1}/{len(chosen)} {outcome}  {what}", flush=True)
            if given.output is not None:
                write(given.output, suite, len(possible), found)
        is_good = is_good and not found["SURVIVED"] and not found["INVALID"]
    return 0 if is_good else 1


def write(path, suite, num_possible, found):
    """Puts the results of one suite into the file."""
    results = json.loads(path.read_text()) if path.exists() else {}
    num_caught, num_survivors = len(found["caught"]), len(found["SURVIVED"])
    results[suite] = {
        "changes": num_caught + num_survivors,
        "of": num_possible,
        "caught": num_caught,
        "survivors": found["SURVIVED"],
    }
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

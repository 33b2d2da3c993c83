"""Changes one thing in the CUDA source of `sample` at a time and counts how many of them the tests on a CPU notice.

`python tests/kernels/mutations.py [-o results.json] [--first N] [--limit N]`: a minute or two for every ten changes.
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

from cpu_device import CUDA, ROOT

FILES = ("sample.cuh", "select.cuh", "board.cuh", "row.cuh")
BARRIER = re.compile(
    r"^\s*(__syncthreads\(\)|board\.sync\(\)|board\.open\(\)|board\.close\(\)|cluster_sync\(\));", re.M
)
CHANGES = (
    ("numbers.cuh", "KEY_ILLEGAL;\n    return bits", "KEY_INFINITE;\n    return bits"),
    ("numbers.cuh", "(total * fraction != 0)", "1"),
    ("numbers.cuh", "? ~bits : bits | 0x80000000u", "? bits : bits | 0x80000000u"),
    ("numbers.cuh", "round < 10", "round < 9"),
    ("numbers.cuh", "static_cast<i32>(k) + 40", "static_cast<i32>(k) + 39"),
    ("row.cuh", "if (row.penalty != 1.0f && seen", "if (seen == nullptr && seen"),
    ("row.cuh", "x < 0.0f ? __fmul_rn", "x > 0.0f ? __fmul_rn"),
    ("row.cuh", "scalar_from = begin + num_loads * per_load", "scalar_from = begin + (num_loads + 1) * per_load"),
    ("row.cuh", "token < end", "token + 1 < end"),
    ("row.cuh", "+ segment.start;", ";"),
    ("row.cuh", "bits[i / 32] >> (i % 32)", "bits[i / 32] >> ((i + 1) % 32)"),
    ("row.cuh", "__fadd_rn(x, 0.0f)", "x"),
    ("select.cuh", "add_high += before + add_low < before;", ""),
    ("select.cuh", "before < target && target <= before + own", "before <= target && target < before + own"),
    ("select.cuh", "while (sum < target)", "while (sum <= target)"),
    ("select.cuh", "above = sum;", ""),
    ("select.cuh", "if (w < warp) before", "if (w <= warp) before"),
    ("select.cuh", "if (threadIdx.x % WARP >= d) x += before", "if (threadIdx.x % WARP > d) x += before"),
    ("select.cuh", "key >> (pass == 1 ? 21 : 10) == prefix", "key >> (pass == 1 ? 21 : 11) == prefix"),
    ("select.cuh", "Digit{10, 11}", "Digit{11, 10}"),
    ("select.cuh", "cta.low[i] = cta.high[i] = 0", "cta.low[i] = 0"),
    ("board.cuh", "phase += size();", "phase = size();"),
    ("board.cuh", "memory->arrived = 0;", ""),
    ("board.cuh", "memory->left = 0;", ""),
    ("board.cuh", "bins[i] = 0;", ""),
    ("board.cuh", "i / slice);", "i / slice / 2);"),
    ("board.cuh", "< phase) pause", "+ 1 < phase) pause"),
    ("sample.cuh", "out.step[row] += 1;", ""),
    ("sample.cuh", "1u << (token % 32);", "1u << (token % 31);"),
    ("sample.cuh", "need -= cta.above;", ""),
    ("sample.cuh", "if (key >= floor && is", "if (key > floor && is"),
    ("sample.cuh", "target - above + weight - 1", "target - above + weight"),
    ("sample.cuh", "before >= num_stay ? 0", "before > num_stay ? 0"),
    ("sample.cuh", "smaller(num_stay - before, tied)", "tied"),
    ("sample.cuh", "row.top_k < n,", "row.top_k <= n + 1,"),
    ("sample.cuh", "if (top == KEY_ILLEGAL)", "if (top == 0)"),
    ("sample.cuh", "greedy ? 1u : 0xFFFFFFFFu", "0xFFFFFFFFu"),
    ("sample.cuh", "if (edge_weight < min_weight) edge_weight = 0;", ""),
    ("sample.cuh", "if (weight >= min_weight) mass += weight;", "mass += weight;"),
    ("sample.cuh", "if (weight < min_weight) weight = 0;", ""),
    ("sample.cuh", "tied += key == edge.key;", "tied += key >= edge.key;"),
    ("sample.cuh", "if (rest < here) {\n                if (r ==", "if (rest <= here) {\n                if (r =="),
    ("sample.cuh", "rest -= here;\n            before += cta.slots", "before += cta.slots"),
    ("sample.cuh", "inclusive > rest && inclusive - weight <= rest", "inclusive >= rest && inclusive - weight < rest"),
    ("sample.cuh", "if (sum > rest) break;", "if (sum >= rest) break;"),
    ("sample.cuh", "((1u << lane) - 1)", "((2u << lane) - 1)"),
    ("sample.cuh", "before += __popc(ties);", ""),
    ("sample.cuh", "static_cast<i32>(begin + i)", "static_cast<i32>(i)"),
    ("sample.cuh", "before += cta.warp_tied[w];", ""),
)

EQUIVALENT = {
    "sample.cuh: 'before >= num_stay ? 0' -> 'before > num_stay ? 0'": (
        "where the two are equal, the other side of the condition is min(0, tied), which is 0 as well"
    ),
}
"""Changes that no test can notice, by name, and why: they are not run and not counted as survivors."""


def mutations():
    """(name, file, text) of every change."""
    for name, old, new in CHANGES:
        text = (CUDA / name).read_text()
        if text.count(old) == 0:
            raise ValueError(f"{name} holds no {old!r}: adapt the list")
        yield f"{name}: {old!r} -> {new!r}", name, text.replace(old, new, 1)
    for name in FILES:
        text = (CUDA / name).read_text()
        for found in BARRIER.finditer(text):
            line = text.count("\n", 0, found.start(1)) + 1
            yield f"{name}:{line}: without {found[1]}", name, text[: found.start(1)] + text[found.end(1) :]


def is_caught(name, text, command):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "cuda"
        shutil.copytree(CUDA, source)
        (source / name).write_text(text)
        environment = {**os.environ, "ILLUME_CUDA_SOURCE": str(source)}
        try:
            return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300).returncode != 0
        except subprocess.TimeoutExpired:
            return True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    tests = str(Path(__file__).with_name("test_sample_kernel.py"))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests]
    everything = list(mutations())
    unknown = EQUIVALENT.keys() - {what for what, _, _ in everything}
    if unknown:
        raise ValueError(f"EQUIVALENT holds {sorted(unknown)}, which are no changes: adapt it")
    everything = [change for change in everything if change[0] not in EQUIVALENT]
    chosen = everything[given.first :][: given.limit]
    survivors = []
    for i, (what, name, text) in enumerate(chosen):
        caught = is_caught(name, text, command)
        print(f"{i + 1}/{len(chosen)} {'caught' if caught else 'SURVIVED'}  {what}", flush=True)
        if not caught:
            survivors.append(what)
        if given.output is not None:
            result = {"changes": i + 1, "of": len(everything), "caught": i + 1 - len(survivors), "survivors": survivors}
            given.output.write_text(json.dumps(result, indent=1) + "\n")
    return len(survivors) > len(chosen) // 10


if __name__ == "__main__":
    sys.exit(main())

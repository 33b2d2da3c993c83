"""Every kernel once over small, awkward sizes, compared with its definition: `python -m benchmarks.gpu.launch_all`.

It is what compute-sanitizer's tools are run on, under which everything takes ten to a hundred times as long.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from benchmarks.gpu.case import Case
from benchmarks.gpu.kernels import GATHER_KINDS, HEAD_KINDS, before_clusters
from benchmarks.gpu.step_cases import advance_case, gather_case, head_case, solver_case
from benchmarks.gpu.token_cases import gumbel_case, sample_case
from illume_runtime.errors import IllumeError
from illume_runtime.gpu.accelerator import Accelerator, open_accelerator

TOKENS = (1, 514, 9000)


def small_cases(gpu: Accelerator) -> Iterator[tuple[str, Case]]:
    """Names and cases; memory is given back before the next one is made."""
    for n in TOKENS:
        for facts in dict.fromkeys((gpu.device.gpu, before_clusters(gpu))):
            yield f"sample {facts.compute_capability} n={n}", sample_case(gpu, 3, n, min(7, n), 2, facts)
        yield f"sample_gumbel n={n}", gumbel_case(gpu, 3, n, 2)
    for kind in HEAD_KINDS:
        for rows in (2, 8, 16):
            yield f"head_gemv {kind} R={rows}", head_case(gpu, kind, 41, 384, rows, 1)
    for kind in GATHER_KINDS:
        yield f"gather_embedding {kind}", gather_case(gpu, kind, 30, 37, batch=3, num_appended=2)
    yield "guidance_step", solver_case(gpu, 130, 4)
    yield "advance_step", advance_case(gpu, 3, 2)


def main(arguments: list[str] | None = None) -> int:
    """Print the name of every kernel that equals its definition; the first that does not ends it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.launch_all")
    parser.add_argument("--implementation", choices=("cuda-core", "pycuda"), default="cuda-core")
    given = parser.parse_args(arguments)
    try:
        gpu = open_accelerator(given.implementation)
        for name, case in small_cases(gpu):
            case.check()
            print(name, flush=True)
    except IllumeError as error:
        print(f"launch_all: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

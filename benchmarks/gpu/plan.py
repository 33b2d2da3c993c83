"""All jobs of a run in order of importance: ours first, then the peers that targets speak of, then the others."""

from __future__ import annotations

from argparse import Namespace

from benchmarks.gpu import kernel_peers, kernels, loops, model_loops
from benchmarks.gpu.entry import Job
from benchmarks.gpu.timing import Sizes


def jobs_of(options: Namespace, sizes: Sizes) -> list[Job]:
    """The same list for the same options, in every process."""
    jobs = kernels.kernel_jobs(sizes)
    if options.bundle:
        jobs += loops.our_jobs(options.device or loops.DEVICES)
    if options.model:
        jobs += model_loops.token_jobs()
    jobs += kernel_peers.peer_jobs(sizes)
    jobs += kernel_peers.compiled_jobs(sizes)
    if options.model:
        jobs += model_loops.diffusion_jobs()
    return jobs

"""All jobs of a run in order of importance: ours first, then the peers that targets speak of, then the others."""

from __future__ import annotations

from argparse import Namespace

from benchmarks.gpu import kernel_peers, kernels, loops, model_loops
from benchmarks.gpu.entry import Job
from benchmarks.gpu.timing import Sizes

SECTIONS = ("kernels", "loops", "tokens", "peers", "compiled-peers", "diffusion")


def jobs_of(options: Namespace, sizes: Sizes) -> list[Job]:
    """The same list for the same options, in every process."""
    chosen = options.section or SECTIONS
    jobs: list[Job] = []
    jobs += kernels.kernel_jobs(sizes) if "kernels" in chosen else [kernels.limits_job()]
    if options.bundle and "loops" in chosen:
        jobs += loops.our_jobs(options.device or loops.DEVICES)
    if options.model and "tokens" in chosen:
        jobs += model_loops.token_jobs()
    if "peers" in chosen:
        jobs += kernel_peers.peer_jobs(sizes)
    if "compiled-peers" in chosen:
        jobs += kernel_peers.compiled_jobs(sizes)
    if options.model and "diffusion" in chosen:
        jobs += model_loops.diffusion_jobs()
    return jobs

"""Batches drawn on many machines through Ray; every machine needs illume-rt and the bundle under the same path."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from illume_runtime.enhance.generating import Batch
from illume_runtime.enhance.workers import MAX_LOST, Files, Worker, WorkerOptions
from illume_runtime.errors import IllumeError, UnavailableError
from illume_runtime.sampling import ImageSampling

AHEAD = 2  # batches that a worker has: one at work, one waiting


def drawn_by_ray(
    address: str, num_workers: int, options: WorkerOptions, sampling: ImageSampling, batches: Sequence[Batch]
) -> Iterator[tuple[int, Files]]:
    """(number, files) of each batch as it gets ready. `address` is that of a Ray cluster, `local` starts one here.

    Raises UnavailableError without Ray, without the cluster, or after too many lost workers; what a worker raises.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UnavailableError("--ray needs the package ray; install it with: pip install 'illume-rt[ray]'") from error
    here = {"num_cpus": num_workers * options.threads, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"--ray {address}: no Ray cluster answers there: {error}") from error
    try:
        yield from _drawn(ray, num_workers, options, sampling, batches)
    finally:
        ray.shutdown()


def _drawn(
    ray: Any, num_workers: int, options: WorkerOptions, sampling: ImageSampling, batches: Sequence[Batch]
) -> Iterator[tuple[int, Files]]:
    remote = ray.remote(num_cpus=options.threads)(Worker)
    waiting = list(reversed(batches))
    workers = [remote.remote(options, sampling) for _ in range(min(num_workers, len(batches)))]
    at_work: dict[Any, tuple[Any, Batch]] = {}
    num_lost = 0
    while waiting or at_work:
        for worker in workers * AHEAD:
            if waiting and sum(owner is worker for owner, _ in at_work.values()) < AHEAD:
                batch = waiting.pop()
                at_work[worker.draw.remote(batch)] = worker, batch
        ready, _ = ray.wait(list(at_work), num_returns=1)
        worker, batch = at_work.pop(ready[0])
        try:
            files: Files = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, IllumeError) else error from None
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            waiting.append(batch)
            if worker in workers:
                num_lost += 1
                if num_lost > MAX_LOST:
                    raise UnavailableError(f"{num_lost} workers were lost, the last one by: {error}") from error
                workers[workers.index(worker)] = remote.remote(options, sampling)
        else:
            yield batch.number, files

"""Batches drawn by processes of this machine: each loads the bundle once, what a lost one had is redone.

Workers give bytes back and write nothing: the folder is the asking process's alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from illume_runtime.bundle import Bundle
from illume_runtime.enhance.corpus import bundle_sha256
from illume_runtime.enhance.generating import Batch, files_of_batch
from illume_runtime.errors import IllumeError, InvalidBundleError, UnavailableError
from illume_runtime.sampling import ImageSampling

MAX_LOST = 8  # workers, before this is taken for a fault of ours
Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker loads; `sha256` is that of the bundle of this process."""

    bundle: str
    sha256: str
    device: str
    threads: int
    verify: bool


class Worker:
    """Draws batches with a pipeline that is loaded for the first one."""

    def __init__(self, options: WorkerOptions, sampling: ImageSampling) -> None:
        self._options, self._sampling = options, sampling
        self._pipeline: Any = None

    def process(self) -> int:
        """The id of this process."""
        return os.getpid()

    def draw(self, batch: Batch) -> Files:
        """The files of the batch. Raises InvalidBundleError where another bundle lies under the path."""
        if self._pipeline is None:
            from illume_runtime.pipeline import Pipeline

            options = self._options
            bundle = Bundle.open(options.bundle, verify=options.verify)
            if bundle_sha256(bundle) != options.sha256:
                raise InvalidBundleError(f"{options.bundle}: a worker's machine has another bundle there; copy it anew")
            self._pipeline = Pipeline.load(bundle, device=options.device, threads=options.threads)
        return files_of_batch(self._pipeline, batch, self._sampling)


def drawn_by_processes(
    num_workers: int, options: WorkerOptions, sampling: ImageSampling, batches: Sequence[Batch]
) -> Iterator[tuple[int, Files]]:
    """(number, files) of each batch as it gets ready.

    Raises UnavailableError after too many lost workers, and what a worker raises.
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, Any] = {}
    at_work: dict[Connection, Batch] = {}
    waiting = list(reversed(batches))
    num_lost = 0

    def start() -> None:
        here, there = context.Pipe()
        processes[here] = context.Process(target=_serve, args=(there, options, sampling), daemon=True)
        processes[here].start()
        there.close()  # the process has its own: when that one ends, this side is told
        ask(here)

    def ask(connection: Connection) -> None:
        at_work[connection] = waiting.pop()
        with suppress(ConnectionError):  # a lost process is found when its answer is read
            connection.send(at_work[connection])

    try:
        for _ in range(min(num_workers, len(batches))):
            start()
        while at_work:
            for connection in wait(list(at_work)):
                assert isinstance(connection, Connection)
                batch = at_work.pop(connection)
                try:
                    answer = connection.recv()
                except (EOFError, ConnectionError) as error:
                    process = processes.pop(connection)
                    process.join()
                    waiting.append(batch)
                    num_lost += 1
                    if num_lost > MAX_LOST:
                        raise UnavailableError(
                            f"{num_lost} workers were lost, the last one with exit code {process.exitcode}; "
                            "where memory is short, use fewer --workers or a smaller --batch"
                        ) from error
                    start()
                    continue
                if isinstance(answer, Exception):
                    raise answer
                if waiting:
                    ask(connection)
                yield batch.number, answer
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _serve(connection: Connection, options: WorkerOptions, sampling: ImageSampling) -> None:
    """Answers each batch with its files, or with what went wrong, until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the asking process, which ends this one
    worker = Worker(options, sampling)
    while True:
        try:
            batch = connection.recv()
        except EOFError:
            return
        try:
            connection.send(worker.draw(batch))
        except (IllumeError, MemoryError, OSError) as error:
            connection.send(error)

"""The process of one section: does its jobs in order and writes down each entry as soon as it is known.

    python -m benchmarks.gpu.worker REQUEST.json

The report has one JSON object a line: {"begin": job}, {"entry": ..., "job": job}, {"end": job}. A process in which
something failed does no more: its CUDA context may be of no use, and the next jobs get a new one.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.entry import ABSENT, FAILED, NO_TIME, SKIPPED, Entry, Job
from benchmarks.gpu.timing import QUICK, Limits, Sizes
from illume_runtime.errors import EngineError, IllumeError, UnavailableError

JobsOf = Callable[[Namespace, Sizes], list[Job]]


def sizes_of(options: Namespace) -> Sizes:
    """How much is measured."""
    return QUICK if options.quick else Sizes()


def entries_of(job: Job, bench: Bench, put: Callable[[Entry], None]) -> bool:
    """Do one job; whatever it raises becomes an entry. Gives back whether the process may go on."""
    if bench.left_s < job.needs_s:
        put(job.not_done(SKIPPED, f"{NO_TIME}: {max(bench.left_s, 0):.0f} s of at least {job.needs_s:.0f} s"))
        return True
    is_sound = True

    def put_seen(entry: Entry) -> None:
        nonlocal is_sound
        is_sound = is_sound and entry.status != FAILED
        put(entry)

    try:
        for entry in job.work(bench):
            put_seen(entry)
    except KeyboardInterrupt:
        raise
    except UnavailableError as error:
        put_seen(job.not_done(ABSENT, str(error)))
    except BaseException as error:
        code = error.exit_code if isinstance(error, IllumeError) else EngineError.exit_code
        named = str(error) if isinstance(error, IllumeError) else f"{type(error).__name__}: {error}"
        put_seen(job.not_done(FAILED, named, code))
    return is_sound


def main(arguments: Sequence[str], jobs_of: JobsOf, sizes: Sizes | None = None) -> int:
    """Do what the request says."""
    request: dict[str, Any] = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    options = Namespace(**request["options"])
    limits = Limits(**request["limits"]) if request["limits"] else None
    sizes = sizes or sizes_of(options)
    jobs = jobs_of(options, sizes)
    bench = Bench(options, sizes, limits, request["deadline"])
    with Path(request["report"]).open("a", encoding="utf-8") as report:

        def write(line: dict[str, Any]) -> None:
            report.write(json.dumps(line) + "\n")
            report.flush()

        def put(number: int, entry: Entry) -> None:
            write({"entry": entry.as_json(), "job": number})

        for number in request["jobs"]:
            write({"begin": number})
            may_go_on = entries_of(jobs[number], bench, partial(put, number))
            write({"end": number})
            if not may_go_on:
                break
    return 0


if __name__ == "__main__":
    from benchmarks.gpu.plan import jobs_of

    sys.exit(main(sys.argv[1:], jobs_of))

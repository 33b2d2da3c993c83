"""The tables of the README, from the files in `benchmarks/results/`.

python -m benchmarks.table        writes them between the markers in README.md
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import Comparison, PeakMemory, Results, all_results
from illume_runtime.cli.table import megabytes, table
from illume_runtime.files import atomic_write
from illume_runtime.profile.report import RequestReport

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks: written by python -m benchmarks.table -->", "<!-- end of benchmarks -->"
HEADER = ("", "runtime", "eager PyTorch", "")
STAGE_HEADER = ("stage of a drawing", "calls", "ms", "share", "of the machine's limit")

Rows = Sequence[Sequence[str]]


def markdown_of(results: Sequence[Results]) -> str:
    """The tables of every machine."""
    return "\n\n".join(map(_section, results))


def text_of_results(results: Results) -> str:
    """The tables of one machine for a terminal."""
    stages = "\n\n".join(f"{r.name}\n{table(STAGE_HEADER, _stage_rows(r))}" for r in results.stages)
    return f"\n{_about(results)}\n\n{table(HEADER, _rows(results))}\n\n{stages}\n"


def readme_with(text: str, section: str) -> str:
    """The README's text with the section between the markers. Raises ValueError if they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md: expected the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def _section(results: Results) -> str:
    drawing = next(report for report in results.stages if report.name == "draw")
    return (
        f"{_about(results)}\n\n{_markdown(HEADER, _rows(results))}\n\n{_markdown(STAGE_HEADER, _stage_rows(drawing))}"
    )


def _about(results: Results) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    limits = results.limits
    return (
        f"{results.machine.cpu}, {limits.threads} threads for both sides, which take turns; medians; {results.model}; "
        f"{versions}; {results.date}. "
        f"The machine reads {limits.memory_bytes_per_s / 1e9:.0f} GB/s and computes "
        f"{limits.float32_flops_per_s / 1e9:.0f} GFLOP/s in float32 (measured)."
    )


def _rows(results: Results) -> Rows:
    rows = [_comparison(one) for one in (*results.requests, results.cold_start)]
    rows += [_memory(one) for one in results.memory]
    cost = results.profiler
    return [*rows, ("drawing with tracing on", f"{cost.traced.median_ms:.1f} ms", "", f"+{cost.counted_overhead:.1%}")]


def _comparison(one: Comparison) -> Sequence[str]:
    return one.name, f"{one.runtime.median_ms:.1f} ms", f"{one.eager.median_ms:.1f} ms", f"{one.speedup:.1f}x"


def _memory(one: PeakMemory) -> Sequence[str]:
    return f"peak memory, {one.name}", megabytes(one.runtime_bytes), megabytes(one.eager_bytes), f"{one.share:.0%}"


def _stage_rows(report: RequestReport) -> Rows:
    return [
        (
            row.name,
            f"{row.calls_per_request:g}",
            f"{row.request_ms:.1f}",
            f"{row.share:.1%}",
            "" if row.limit_share is None else f"{row.limit_share:.0%} {row.bound_by}",
        )
        for row in report.rows
    ]


def _markdown(header: Sequence[str], rows: Rows) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Writes the README again."""
    text = README.read_text(encoding="utf-8")
    with atomic_write(README) as temporary:
        temporary.write_text(readme_with(text, markdown_of(all_results())), encoding="utf-8")


if __name__ == "__main__":
    main()

"""A progress bar on standard error: what, step k/N, time left. Nothing at all where that is no terminal."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TextIO

BAR_WIDTH = 28
REDRAW_S = 0.1
CLEAR_LINE = "\r\x1b[K"


class ProgressBar:
    """`with ProgressBar() as bar: bar.update("diffusion", 3, 10)`; the line is removed at the end.

    The time left is measured in the current phase alone: the steps of different phases cost differently.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._visible = self._stream.isatty()
        self._phase = ""
        self._phase_start_s = 0.0
        self._first_step = 0
        self._drawn_s = 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._visible and self._drawn_s:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()

    def update(self, phase: str, done: int, total: int, *, rate: bool = False) -> None:
        """Show that `done` of `total` steps of the phase are finished, and with `rate` how many in a second."""
        if not self._visible:
            return
        now_s = monotonic()
        if phase != self._phase:
            self._phase, self._phase_start_s, self._first_step = phase, now_s, done
        elif now_s - self._drawn_s < REDRAW_S and done < total:
            return
        self._drawn_s = now_s
        self._stream.write(CLEAR_LINE + self._line(done, total, now_s, rate))
        self._stream.flush()

    def _line(self, done: int, total: int, now_s: float, rate: bool) -> str:
        filled = BAR_WIDTH * done // max(total, 1)
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        finished = done - self._first_step
        elapsed_s = now_s - self._phase_start_s
        left = f"  {elapsed_s / finished * (total - done):.1f} s left" if finished else ""
        if rate and finished:
            left = f"  {finished / elapsed_s:.1f}/s{left}"
        return f"{self._phase:<12} {bar} {done}/{total}{left}"

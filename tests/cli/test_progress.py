"""The progress bar: on a terminal only, exact counts, gone at the end."""

import io

import pytest

from illume_runtime.cli import progress
from illume_runtime.cli.progress import CLEAR_LINE, ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    times = iter(range(1, 1000))
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(times)))


def test_where_there_is_no_terminal_nothing_is_written():
    stream = io.StringIO()
    with ProgressBar(stream) as bar:
        bar.update("tokens", 1, 2)
    assert stream.getvalue() == ""


def test_step_count_and_time_left(clock):
    stream = Terminal()
    with ProgressBar(stream) as bar:
        bar.update("tokens", 0, 4)
        bar.update("tokens", 1, 4)
        bar.update("tokens", 3, 4)
    lines = stream.getvalue().split(CLEAR_LINE)
    assert lines[1].endswith("0/4")
    assert lines[2].endswith("1/4  3.0 s left")
    assert lines[3].endswith("3/4  0.7 s left")
    assert lines[4] == ""


def test_each_phase_has_its_own_time(clock):
    stream = Terminal()
    with ProgressBar(stream) as bar:
        bar.update("tokens", 1, 1)
        bar.update("diffusion", 1, 10)
        bar.update("diffusion", 2, 10)
    assert stream.getvalue().split(CLEAR_LINE)[3].endswith("2/10  8.0 s left")


def test_steps_that_come_fast_are_drawn_at_most_ten_times_a_second(monkeypatch):
    monkeypatch.setattr(progress, "monotonic", lambda: 5.0)
    stream = Terminal()
    with ProgressBar(stream) as bar:
        for done in range(1, 101):
            bar.update("tokens", done, 100)
    assert stream.getvalue().count("/100") == 2

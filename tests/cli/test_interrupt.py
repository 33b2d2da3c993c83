"""Signals to a real process in the middle of its work: the exit code, one line, nothing left behind."""

import os
import pty
import signal
import subprocess
import sys

import pytest


class Running:
    """A command whose standard error is a terminal, so that its progress can be seen."""

    def __init__(self, *words):
        self._leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "illume_runtime", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=follower,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
        )
        os.close(follower)
        self.shown = ""

    def wait_for(self, words):
        while words not in self.shown:
            piece = self._read()
            assert piece, f"the command ended before it showed {words!r}: {self.shown}"

    def end(self):
        """Exit code and standard output, once the process is gone."""
        out = self.process.stdout.read()
        while self._read():
            pass
        os.close(self._leader)
        self.process.stdout.close()
        return self.process.wait(60), out

    def _read(self):
        try:
            piece = os.read(self._leader, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            return ""
        self.shown += piece
        return piece


@pytest.mark.parametrize(
    ("number", "code", "last"),
    [(signal.SIGINT, 130, "illume draw: error: interrupted\r\n"), (signal.SIGTERM, 143, "")],
    ids=["Ctrl-C", "terminated"],
)
def test_an_interrupted_drawing_leaves_no_file(bundle, tmp_path, number, code, last):
    much = ("-n", 64, "--steps", 100, "--diffusion-guidance", 3)  # so that the signal comes in time
    running = Running("draw", bundle, "a star", *much, "-o", tmp_path / "o.png")
    running.wait_for("tokens")
    running.process.send_signal(number)
    assert running.end() == (code, b"")
    assert "Traceback" not in running.shown
    assert running.shown.endswith(last)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_no_bundle(checkpoint, tmp_path):
    running = Running("export", checkpoint, "-o", tmp_path / "new.bundle")
    running.wait_for("vision_encoder   built")
    assert [path.name for path in tmp_path.iterdir()] != ["new.bundle"]
    running.process.send_signal(signal.SIGINT)
    assert running.end() == (130, b"")
    assert "Traceback" not in running.shown
    assert running.shown.endswith("illume export: error: interrupted\r\n")
    assert list(tmp_path.iterdir()) == []

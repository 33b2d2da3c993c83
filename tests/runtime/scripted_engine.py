"""An engine whose logits are written down, for what a loop does with the tokens that it is given."""

import numpy as np

from illume_runtime.manifest import Segment
from illume_runtime.trace import NULL_TRACER
from illume_runtime.words import HostWords


class ScriptedEngine:
    """Gives logits that make `sample` choose the script's tokens, one list per step; remembers what was appended."""

    def __init__(self, script, size):
        self._script = [list(tokens) for tokens in script]
        self._size = size
        self.steps = []
        self.started = []

    def embed(self, ids):
        return np.zeros((len(ids), 2), np.float32)

    def words(self, rows, sampling, *, banned, opening, first=0, on_logits=None):
        segment = Segment("text", 0, self._size)
        options = {"banned": banned, "opening": opening, "first": first, "on_logits": on_logits, "tracer": NULL_TRACER}
        return HostWords(self, segment, rows, sampling, **options)

    def start(self, rows, capacity, *, constant=None):
        self.started.append((len(rows), capacity))
        return np.zeros((len(rows), 2), np.float32)

    def step(self, tokens, segment, *, counts=None):
        self.steps.append((segment, tokens.tolist()))
        return np.zeros((len(tokens), 2), np.float32)

    def logits(self, segment, hidden, guidance):
        chosen = self._script.pop(0)
        logits = np.zeros((len(chosen), self._size), np.float32)
        for row, token in enumerate(chosen):
            if token is None:
                logits[row] = np.nan
            else:
                logits[row, token] = 50.0
        return logits

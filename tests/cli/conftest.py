"""A pipeline that answers at once, for tests of what the command line does with the answers."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import illume_runtime.pipeline as pipeline_module
from illume_runtime.pipeline import Answer, Picture, Progress, Reply


class FakePipeline:
    """Says and draws the same thing whatever it is asked, and remembers how it was called in `calls`."""

    def __init__(self, tracer):
        self.bundle = SimpleNamespace(name="fake")
        self.tracer = tracer
        self.calls = []
        self.answer = Answer(text="a red circle", token_ids=(5, 6, 7), finish_reason="end")
        self.draws_in_chat = False

    def picture(self, prompt, seed, request):
        codes = np.full((8, 8), request, np.int64)
        image = Image.new("RGB", (256, 256), (request, 0, 0))
        return Picture(image=image, codes=(codes,), prompt=prompt, seed=seed, request=request)

    def describe(self, image, question=None, *, sampling=None, on_text=None, cancel=None):
        self.calls.append(("describe", question, sampling))
        with self.tracer.span("prefill", num_bytes=1000, flops=1000, tokens=64):
            pass
        for piece in ("a ", "red ", "circle"):
            if on_text is not None:
                on_text(piece)
        return self.answer

    def draw(self, prompt, *, n=1, size=None, sampling=None, on_progress=None, on_preview=None, cancel=None):
        self.calls.append(("draw", prompt, sampling))
        for request in range(n) if on_preview is not None else ():
            on_preview(self.picture(prompt, 0, request))
        for done in range(1, 4):
            with self.tracer.span("denoise", step=done):
                pass
            if on_progress is not None:
                on_progress(Progress("diffusion", done, 3, None))
        return [self.picture(prompt, sampling.seed if sampling else 0, request) for request in range(n)]

    def edit(self, image, instruction, *, n=1, sampling=None, on_progress=None, on_preview=None, cancel=None):
        self.calls.append(("edit", instruction, sampling))
        return [self.picture(instruction, sampling.seed if sampling else 0, request) for request in range(n)]

    def reconstruct(self, image, *, sampling=None, on_progress=None):
        self.calls.append(("reconstruct", None, sampling))
        return self.picture("", 0, 0)

    def chat(self, messages, *, sampling=None, on_text=None, on_progress=None, cancel=None):
        self.calls.append(("chat", messages, sampling))
        if self.draws_in_chat:
            return Reply(text="", picture=self.picture("drawn in chat", 0, 0))
        if on_text is not None:
            on_text("it is red")
        return Reply(text="it is red", picture=None)


@pytest.fixture
def fake(monkeypatch):
    """Every `Pipeline.load` gives this one pipeline; `fake.loaded` holds the arguments of the last load."""
    pipeline = FakePipeline(None)

    def load(bundle, *, device="cpu", threads=None, tracer=None, verify=True, residency="all"):
        pipeline.tracer = tracer
        pipeline.loaded = {
            "bundle": bundle,
            "device": device,
            "threads": threads,
            "verify": verify,
            "residency": residency,
        }
        return pipeline

    monkeypatch.setattr(pipeline_module.Pipeline, "load", staticmethod(load), raising=False)
    return pipeline


@pytest.fixture
def image_file(tmp_path):
    path = tmp_path / "in.png"
    Image.new("RGB", (32, 32), (200, 30, 30)).save(path)
    return str(path)

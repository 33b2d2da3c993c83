"""Pictures and an answer over a real device layer: `python whole_loop.py cuda-core BUNDLE` prints their tokens.

Those of the device first, then those of the CPU.
"""

import json
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_gpu import FakeSession, view
from illume_runtime.gpu import sessions
from illume_runtime.gpu.accelerator import open_accelerator
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling


class WaitingRun:
    """A stage on the CPU cannot stand in the driver's queue: it waits for the stream, and is not captured."""

    is_capturable = False

    def __init__(self, bound, accelerator, kept):
        self._bound, self._accelerator, self._kept = bound, accelerator, kept

    def enqueue(self):
        self._accelerator.stream.synchronize()
        self._bound.run()


class WaitingSession(FakeSession):
    def bind_device(self, inputs, outputs):
        arrays = {}

        def host(array):
            return arrays.setdefault((array.address, array.shape), view(array.address, array.dtype, *array.shape))

        bound = self._session.bind({n: host(a) for n, a in inputs.items()}, {n: host(a) for n, a in outputs.items()})
        return WaitingRun(bound, self._accelerator, (inputs, outputs))


def gpu_sessions(implementation):
    accelerator = open_accelerator(implementation)
    return accelerator, lambda path, spec, device, threads: WaitingSession(path, spec, accelerator)


def tokens_of(pipeline):
    pictures = pipeline.draw("a star", n=2, sampling=ImageSampling(seed=5, steps=2, top_p=0.9))
    image = Image.new("RGB", (96, 96), "red")
    samplings = TextSampling(max_tokens=6, temperature=1.0, repetition_penalty=2.0), TextSampling(max_tokens=6)
    answers = [pipeline.describe(image, "what?", sampling=sampling) for sampling in samplings]
    return [*(picture.codes[0].tolist() for picture in pictures), *(answer.token_ids for answer in answers)]


def main(implementation, bundle):
    with Pipeline.load(bundle, threads=1) as pipeline:
        expected = tokens_of(pipeline)
    sessions.gpu_sessions = lambda bundle, device: gpu_sessions(implementation)
    with Pipeline.load(bundle, device="cuda") as pipeline:
        got = tokens_of(pipeline)
    print(json.dumps([got, expected]))


if __name__ == "__main__":
    main(*sys.argv[1:])

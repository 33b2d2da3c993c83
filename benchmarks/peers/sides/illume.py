"""illume-rt: the bundle's token engine, as the pipeline drives it: text by its own head, a picture by its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.peers.environments import FLOAT, group_of
from benchmarks.peers.picture import schedule_of
from benchmarks.peers.task import Chosen, Span, Task
from illume_kernels.oracle import sample
from illume_runtime.bundle import Bundle
from illume_runtime.decoder import TokenEngine
from illume_runtime.drawing import draw_codes
from illume_runtime.pipeline import ImageSampling, TextSampling
from illume_runtime.sampling import params_of_rows
from illume_runtime.stages import Stages
from illume_runtime.token_engine import TokenRequest
from illume_runtime.trace import NULL_TRACER

PACKAGES = ("illume-rt", "onnxruntime")
STAGES = ("decoder", "head_text", "head_level0", "head_level1")


def export(checkpoint: Path, output: Path, threads: int, weights: str) -> None:
    """The stages of the language model; their graphs are not compared with PyTorch.

    Quantized ones are those of the float bundle beside them.
    """
    if weights != FLOAT:
        quantize(output.with_name("illume"), output, weights)
        return
    from benchmarks.peers.shapes import SHAPES, checkpoint_from_folder
    from illume_export.bundle_from_plan import bundle_from_plan
    from illume_export.plan import plan_from_checkpoint

    made = checkpoint_from_folder(SHAPES[checkpoint.name], checkpoint)
    plan = plan_from_checkpoint(made, output, only=STAGES)
    bundle_from_plan(made, plan, on_stage=lambda name, done, total: None, on_result=lambda result: None)


def quantize(source: Path, output: Path, weights: str) -> None:
    """By the family's recipe, in which the decoder has quantized weights alone: no data is needed."""
    from illume_calibration.bundle_from_recipe import Source, bundle_from_recipe
    from illume_calibration.recipe import recipe_from_name, weights_alone, with_overrides
    from illume_runtime.quantization import NO_DATA, CalibrationData

    how = [f"decoder.weights={weights.partition('-')[0]}", f"decoder.group_size={group_of(weights)}"]
    bundle = Bundle.open(source, verify=False)
    recipe = with_overrides(weights_alone(recipe_from_name("illume_plus"), bundle.stages), how, None)
    float_source = Source(bundle, {}, CalibrationData(NO_DATA, "", 0, 0, 0))
    bundle_from_recipe(float_source, recipe, output, None, lambda name, done, total: None)


class Side:
    """The loaded bundle."""

    def __init__(self, folder: Path, threads: int, max_tokens: int) -> None:
        self._bundle = Bundle.open(folder, verify=False)
        self._stages = Stages(self._bundle, "cpu", threads, NULL_TRACER)
        self._engine = TokenEngine(self._stages)

    def load(self, task: str) -> None:
        """Open the sessions that a task needs."""
        for name in STAGES[:2] if task == "text" else STAGES[2:]:
            self._stages[name]

    def text(self, task: Task) -> Chosen:
        """Greedy tokens of the text segment."""
        engine, count = self._engine, len(task.text)
        start = self._bundle.vocabulary.segment("text").start
        params = params_of_rows(TextSampling(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0), [0])
        ids: list[int] = []
        marks = [Span.now()]
        hidden = engine.start([engine.embed(task.prompt)], len(task.prompt) + count)
        for k in range(count):
            ids.append(int(sample(engine.logits("text", hidden, 1.0), params.at_step(k))[0]) + start)
            marks.append(Span.now())
            if k + 1 < count:
                hidden = engine.step(np.array([ids[-1:]]), "text")
        return Chosen.of_spans(ids, _between(marks))

    def picture(self, task: Task) -> Chosen:
        """Greedy codes of a picture, and the ids that stand between them."""
        schedule = schedule_of(self._bundle, task.rows)
        prompt = self._engine.embed(task.prompt)
        sampling = ImageSampling(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, guidance=1.0)
        marks = [Span.now()]
        (codes,) = draw_codes(
            self._engine,
            [TokenRequest(schedule, prompt, prompt, request=0)],
            sampling,
            tracer=NULL_TRACER,
            code_color=None,
            on_progress=lambda progress: marks.append(Span.now()),
            cancel=None,
        )
        ids: list[int] = schedule.tokens_of(codes)[task.num_opening : len(task.picture)].tolist()
        return Chosen.of_spans(ids, _between(marks))


def _between(marks: Sequence[Span]) -> list[Span]:
    return [b - a for a, b in pairwise(marks)]

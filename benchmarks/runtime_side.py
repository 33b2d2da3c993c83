"""The runtime's side: no torch in this process unless the other side brings it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.requests import BATCH, INSTRUCTION, PROMPT, measuring_picture
from illume_runtime.decoder import TokenEngine
from illume_runtime.detokenizing import pixels_of_codes
from illume_runtime.drawing import draw_codes
from illume_runtime.images import image_from_pixels
from illume_runtime.pipeline import ImageSampling, Pipeline
from illume_runtime.prompting import embeds_of_prompt
from illume_runtime.prompts import PromptWriter
from illume_runtime.sampling import with_defaults
from illume_runtime.schedule import schedule_from_grammar
from illume_runtime.stages import Stages
from illume_runtime.text import tokenizer_from_bundle
from illume_runtime.token_engine import TokenRequest
from illume_runtime.trace import NULL_TRACER, Tracer


class RuntimeSide:
    """Whole requests through the pipeline; the two stages of drawing through the functions that it calls."""

    def __init__(self, bundle: Path, threads: int, tracer: Tracer = NULL_TRACER) -> None:
        self.pipeline = Pipeline.load(bundle, threads=threads, tracer=tracer)
        self._picture = measuring_picture()
        opened = self.pipeline.bundle
        self._sampling = with_defaults(ImageSampling(), opened.generation, "draw")
        self._schedule = schedule_from_grammar(opened.grammar, opened.vocabulary)
        self._writer = PromptWriter(opened.prompts, opened.vocabulary, tokenizer_from_bundle(opened))
        self._stages = Stages(opened, "cpu", threads, NULL_TRACER)
        self._engine = TokenEngine(self._stages)

    def tokens(self) -> object:
        prompt = self._writer.draw(PROMPT)
        sides = (embeds_of_prompt(self._engine, p, []) for p in (prompt.conditional, prompt.unconditional))
        self._codes = draw_codes(
            self._engine,
            [TokenRequest(self._schedule, *sides, request=0)],
            self._sampling,
            tracer=NULL_TRACER,
            code_color=None,
            on_progress=None,
            cancel=None,
        )
        return self._codes

    def diffusion(self) -> object:
        return image_from_pixels(pixels_of_codes(self._stages, self._schedule, self._codes, [0], self._sampling)[0])

    def draw(self) -> object:
        return self.pipeline.draw(PROMPT)

    def draw_batch(self) -> object:
        return self.pipeline.draw(PROMPT, n=BATCH)

    def describe(self) -> object:
        return self.pipeline.describe(self._picture)

    def edit(self) -> object:
        return self.pipeline.edit(self._picture, INSTRUCTION)

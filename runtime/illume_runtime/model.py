"""A bundle in its loaded parts: what answers and pictures are made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from illume_runtime.bundle import Bundle
from illume_runtime.decoder import TokenEngine
from illume_runtime.errors import UsageError
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.prompting import embeds_of_prompt
from illume_runtime.prompts import Prompt, PromptWriter
from illume_runtime.schedule import Schedule, schedules_from_grammar
from illume_runtime.stages import Stages
from illume_runtime.text import TextTokenizer, tokenizer_from_bundle
from illume_runtime.token_engine import Embeds, Engine
from illume_runtime.trace import Tracer
from illume_runtime.vision import Seen, Vision, vision_from_stages


@dataclass(frozen=True, slots=True)
class Model:
    """The parts; `schedules` are by the name of their size, the default first."""

    stages: Stages
    tokenizer: TextTokenizer
    writer: PromptWriter
    schedules: Mapping[str, Schedule]
    vision: Vision
    engine: Engine

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self.stages.bundle

    @property
    def tracer(self) -> Tracer:
        """Where spans are reported."""
        return self.stages.tracer

    @property
    def schedule(self) -> Schedule:
        """That of the default size."""
        return next(iter(self.schedules.values()))

    @property
    def max_answers(self) -> int:
        """Answers that are made together."""
        return min(self.engine.max_rows or MAX_DRAW_BATCH, MAX_DRAW_BATCH)

    def schedule_of(self, size: str | None) -> Schedule:
        """The schedule of a size's name, the default one for None. Raises UsageError that lists them."""
        if size is None:
            return self.schedule
        if size not in self.schedules:
            raise UsageError(f"size: got {size!r}, expected one of {', '.join(self.schedules)} (width x height)")
        return self.schedules[size]

    def embeds(self, prompt: Prompt, images: Sequence[Seen]) -> Embeds:
        """Embeddings [T, D] of a prompt with its images."""
        with self.tracer.span("embed"):
            return embeds_of_prompt(self.engine, prompt, images)

    def close(self) -> None:
        """Give the memory of all stages and caches back."""
        self.engine.close()
        self.stages.close()


def model_from_stages(stages: Stages) -> Model:
    """The parts of a bundle; graphs are loaded when they are first used."""
    bundle = stages.bundle
    tokenizer = tokenizer_from_bundle(bundle)
    schedules = schedules_from_grammar(bundle.grammar, bundle.vocabulary)
    return Model(
        stages=stages,
        tokenizer=tokenizer,
        writer=PromptWriter(bundle.prompts, bundle.vocabulary, tokenizer),
        schedules=schedules,
        vision=vision_from_stages(stages, schedules),
        engine=_engine_of(stages),
    )


def _engine_of(stages: Stages) -> Engine:
    if stages.accelerator is None:
        return TokenEngine(stages)
    from illume_runtime.gpu.engine import GpuTokenEngine

    return GpuTokenEngine(stages, stages.accelerator)

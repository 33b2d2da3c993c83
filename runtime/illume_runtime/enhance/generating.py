"""Batches of a corpus: what belongs into each, and the bytes of its files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from illume_runtime.bundle import Bundle
from illume_runtime.enhance.corpus import (
    SAMPLES_NAME,
    Corpus,
    CorpusFacts,
    Sample,
    bundle_sha256,
    codes_sha256,
    corpus_to_write,
)
from illume_runtime.enhance.prompt_file import PromptLine
from illume_runtime.images import write_png
from illume_runtime.prompting import check_context
from illume_runtime.prompts import PromptWriter
from illume_runtime.sampling import ImageSampling
from illume_runtime.schedule import schedules_from_grammar
from illume_runtime.text import tokenizer_from_bundle
from illume_runtime.typed_json import json_from_value

if TYPE_CHECKING:
    from illume_runtime.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples that are drawn at once, with a seed of their own."""

    number: int
    seed: int
    ids: tuple[str, ...]
    prompts: tuple[str, ...]


Draw = Callable[[Sequence[Batch]], Iterable[tuple[int, dict[str, bytes]]]]  # in any order


def corpus_facts(
    bundle: Bundle, prompts: Sequence[PromptLine], *, samples_per_prompt: int, batch: int, sampling: ImageSampling
) -> CorpusFacts:
    """The facts of a corpus to be made."""
    listed = json.dumps([[line.line, line.prompt] for line in prompts])
    usual = asdict(ImageSampling(seed=sampling.seed))
    given = {name: value for name, value in asdict(sampling).items() if value != usual[name]}
    return CorpusFacts(
        format="illume-corpus",
        schema_version=1,
        bundle=bundle.name,
        bundle_sha256=bundle_sha256(bundle),
        codes_sha256=codes_sha256(bundle),
        prompts_sha256=sha256(listed.encode()).hexdigest(),
        num_samples=len(prompts) * samples_per_prompt,
        samples_per_prompt=samples_per_prompt,
        batch=batch,
        seed=sampling.seed,
        sampling=given,
    )


def generate(
    path: Path, facts: CorpusFacts, prompts: Sequence[PromptLine], draw: Draw, on_progress: Callable[[int, int], None]
) -> Corpus:
    """The complete corpus: the batches that are missing are drawn and written, each as soon as it is there.

    `on_progress` gets the number of samples that are there, and of all. Raises UsageError, OSError (the disk is full).
    """
    with corpus_to_write(path, facts) as corpus:
        batches = batches_of(facts, prompts)
        missing = corpus.missing()
        done = sum(len(batch.ids) for batch in batches) - sum(len(batches[number].ids) for number in missing)
        on_progress(done, facts.num_samples)
        for number, files in draw([batches[number] for number in missing]):
            corpus.write_batch(number, files)
            done += len(batches[number].ids)
            on_progress(done, facts.num_samples)
        return corpus


def batches_of(facts: CorpusFacts, prompts: Sequence[PromptLine]) -> list[Batch]:
    """All samples, `samples_per_prompt` of each prompt one after the other, in batches."""
    samples = [(f"{one.line:06d}-{k}", one.prompt) for one in prompts for k in range(facts.samples_per_prompt)]
    batches = []
    for number, first in enumerate(range(0, len(samples), facts.batch)):
        part = samples[first : first + facts.batch]
        seed = int.from_bytes(sha256(f"{facts.seed}-{number}".encode()).digest()[:8], "little")
        batches.append(Batch(number, seed, tuple(i for i, _ in part), tuple(prompt for _, prompt in part)))
    return batches


def files_of_batch(pipeline: Pipeline, batch: Batch, sampling: ImageSampling) -> dict[str, bytes]:
    """The files of a batch by name; the same for the same bundle, batch and sampling."""
    schedules = schedules_from_grammar(pipeline.bundle.grammar, pipeline.bundle.vocabulary)
    schedule = next(iter(schedules.values()))
    pictures = pipeline.draw_many(batch.prompts, sampling=replace(sampling, seed=batch.seed))
    files: dict[str, bytes] = {}
    lines = []
    for identifier, picture in zip(batch.ids, pictures, strict=True):
        tokens = tuple(schedule.tokens_of(picture.codes).tolist())
        name = f"{identifier}.png"
        sample = Sample(identifier, picture.prompt, picture.seed, picture.request, tokens, name)
        lines.append(json.dumps(json_from_value(sample)) + "\n")
        content = io.BytesIO()
        write_png(picture.image, content)
        files[name] = content.getvalue()
    return {SAMPLES_NAME: "".join(lines).encode(), **files}


def prompt_check(bundle: Bundle) -> Callable[[str], None]:
    """A function that raises UsageError for a prompt that the bundle cannot draw."""
    schedule = next(iter(schedules_from_grammar(bundle.grammar, bundle.vocabulary).values()))
    writer = PromptWriter(bundle.prompts, bundle.vocabulary, tokenizer_from_bundle(bundle))

    def check(prompt: str) -> None:
        guided = writer.draw(prompt, schedule.tag)
        longest = max(side.num_tokens(()) for side in (guided.conditional, guided.unconditional))
        check_context(longest, schedule.num_tokens, bundle.model.max_context, "the picture")

    return check

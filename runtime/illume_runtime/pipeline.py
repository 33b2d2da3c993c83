"""The pipeline: describe, chat, draw, edit, reconstruct, from one bundle.

A batch (`draw_many` and its kin) gives each request its place as number for the seed, so that a picture depends on
(seed, number, prompt) and the logits alone.

    with Pipeline.load("illume-tiny.bundle") as pipeline:
        picture = pipeline.draw("a red circle")[0]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from illume_runtime.answering import answer_rows
from illume_runtime.bundle import Bundle
from illume_runtime.conversation import conversation_from_messages
from illume_runtime.decoder import Embeds, TokenEngine
from illume_runtime.detokenizing import is_draft, pixels_of_codes
from illume_runtime.drawing import TokenRequest, draw_codes
from illume_runtime.enhance.asking import Asked, answers_about_drawn, own_assessments
from illume_runtime.enhance.assessment import Assessment
from illume_runtime.enhance.best_of import BestOf, BestPicture, best_picture
from illume_runtime.enhance.judge import Drawn
from illume_runtime.errors import UsageError
from illume_runtime.images import Source, image_from_pixels, open_image
from illume_runtime.limits import MAX_DRAW_BATCH
from illume_runtime.prompting import check_context, embeds_of_prompt
from illume_runtime.prompts import GuidedPrompt, Prompt, PromptWriter, UserTurn, with_tag
from illume_runtime.request_lock import RequestLock
from illume_runtime.results import Answer, Cancel, OnProgress, OnText, Picture, Progress, Reply
from illume_runtime.sampling import ImageSampling, TextSampling, with_defaults
from illume_runtime.schedule import Codes, Schedule, schedules_from_grammar
from illume_runtime.session import OpenSession, session_from_stage
from illume_runtime.stages import Stages
from illume_runtime.text import tokenizer_from_bundle
from illume_runtime.trace import NULL_TRACER, Tracer
from illume_runtime.vision import Seen, vision_from_stages

__all__ = ["Answer", "ImageSampling", "Picture", "Pipeline", "Progress", "Reply", "TextSampling"]


class Pipeline:
    """A loaded bundle. Stages load when they are first used, so that describing never loads what only drawing needs.

    One request (or batch) runs at a time; other threads wait for it (`RequestLock`). A callback runs on the thread of
    its request, and what it raises ends the request; the next one finds the pipeline as new.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str,
        threads: int | None,
        tracer: Tracer,
        open_session: OpenSession = session_from_stage,
    ) -> None:
        self.bundle = bundle
        self.tracer = tracer
        self._stages = Stages(bundle, device, threads, tracer, open_session)
        self._tokenizer = tokenizer_from_bundle(bundle)
        self._writer = PromptWriter(bundle.prompts, bundle.vocabulary, self._tokenizer)
        self._schedules = schedules_from_grammar(bundle.grammar, bundle.vocabulary)
        self._schedule = next(iter(self._schedules.values()))
        self._vision = vision_from_stages(self._stages, self._schedules)
        self._engine = TokenEngine(self._stages)
        self._lock = RequestLock()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory of all stages and caches back; a request after that raises UsageError."""
        self._lock.close()
        self._stages.close()
        self._engine.close()

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        *,
        device: str = "cpu",
        threads: int | None = None,
        tracer: Tracer = NULL_TRACER,
        verify: bool = True,
    ) -> Pipeline:
        """The pipeline of a bundle on the device asked for. Raises what `Bundle.open` and the device raise."""
        if threads is not None and threads < 1:
            raise UsageError(f"threads: got {threads}, expected at least 1")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, verify=verify)
        pipeline = cls(opened, device=device, threads=threads, tracer=tracer)
        _ = pipeline._stages["decoder"]  # so that a device that cannot be used is an error now
        return pipeline

    def describe(
        self,
        image: Source,
        question: str | None = None,
        *,
        sampling: TextSampling | None = None,
        on_text: OnText | None = None,
        cancel: Cancel | None = None,
    ) -> Answer:
        """The answer to a question about an image; `on_text` gets it piece by piece."""
        return self._describe([image], [question], sampling, on_text, cancel)[0]

    def describe_many(
        self, images: Sequence[Source], questions: Sequence[str | None], *, sampling: TextSampling | None = None
    ) -> list[Answer]:
        """One answer per image and question, decoded as one batch."""
        return self._describe(images, questions, sampling, None, None)

    def draw(
        self,
        prompt: str,
        *,
        n: int = 1,
        size: str | None = None,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """`n` pictures of a prompt, drawn as one batch; `size` is one of the bundle's resolutions, None its first."""
        count = _checked_count(n)
        return self.draw_many(
            [prompt] * count, sizes=[size] * count, sampling=sampling, on_progress=on_progress, cancel=cancel
        )

    def draw_many(
        self,
        prompts: Sequence[str],
        *,
        sizes: Sequence[str | None] | None = None,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """One picture per prompt, in the size beside it; pictures of one size are drawn as one batch."""
        if sizes is not None and len(sizes) != len(prompts):
            raise UsageError(f"got {len(prompts)} prompts and {len(sizes)} sizes, expected one for each prompt")
        schedules = [self._schedule_of(size) for size in sizes or [None] * len(prompts)]
        with self.tracer.span("tokenize"):
            pairs = zip(prompts, schedules, strict=True)
            guided = [self._writer.draw(prompt, schedule.tag) for prompt, schedule in pairs]
        with self._lock.request():
            seen: list[list[Seen]] = [[] for _ in prompts]
            return self._pictures("draw", prompts, guided, schedules, seen, None, sampling, on_progress, cancel)

    def draw_best(
        self,
        prompt: str,
        best_of: BestOf,
        *,
        size: str | None = None,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> BestPicture:
        """The picture that the model itself finds the best of several, and what it says of it.

        Raises UsageError for a model that did not learn to assess, QualityError where none reaches the score asked for.
        """
        full = self._image_sampling(sampling, "draw")
        with self._lock.request():
            return best_picture(
                self._asked(self._schedule_of(size)), prompt, best_of, full, on_progress=on_progress, cancel=cancel
            )

    def assess_drawn(self, pictures: Sequence[Drawn]) -> list[Assessment]:
        """What the model says of pictures of the default size that it drew, in batches."""
        with self._lock.request():
            return own_assessments(self._asked(self._schedule), pictures)

    def ask_drawn(self, pictures: Sequence[Drawn], questions: Sequence[str]) -> list[str]:
        """The likeliest answer to a question about each picture of the default size that the model drew, in batches."""
        with self._lock.request():
            return answers_about_drawn(self._asked(self._schedule), pictures, questions)

    def edit(
        self,
        image: Source,
        instruction: str,
        *,
        n: int = 1,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """`n` versions of an image changed as the instruction says, in the size of the image."""
        count = _checked_count(n)
        return self.edit_many(
            [image] * count, [instruction] * count, sampling=sampling, on_progress=on_progress, cancel=cancel
        )

    def edit_many(
        self,
        images: Sequence[Source],
        instructions: Sequence[str],
        *,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """One edited picture per image and instruction."""
        _check_pairs(images, instructions, "instructions")
        opened = _opened(images)
        schedules = [self._vision.schedule_for(image) for image in opened]
        with self.tracer.span("tokenize"):
            pairs = zip(instructions, schedules, strict=True)
            guided = [self._writer.edit(instruction, schedule.tag) for instruction, schedule in pairs]
        with self._lock.request():
            seen = [[one] for one in self._vision.drawn_again(opened)]
            return self._pictures("edit", instructions, guided, schedules, seen, opened, sampling, on_progress, cancel)

    def reconstruct(
        self,
        image: Source,
        *,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> Picture:
        """An image through its own visual tokens and back, in its own size; the language model takes no part."""
        return self.reconstruct_many([image], sampling=sampling, on_progress=on_progress, cancel=cancel)[0]

    def reconstruct_many(
        self,
        images: Sequence[Source],
        *,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """One reconstruction per image."""
        full = self._image_sampling(sampling, "reconstruct")
        opened = _opened(images)
        pictures: list[Picture] = []
        with self._lock.request():
            for schedule, numbers in _batches([self._vision.schedule_for(image) for image in opened]):
                part = [opened[i] for i in numbers]
                codes = self._vision.codes(part)
                texts = [""] * len(part)
                pictures += self._rendered(schedule, codes, numbers, texts, part, full, on_progress, cancel)
        return sorted(pictures, key=lambda picture: picture.request)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        sampling: TextSampling | None = None,
        image_sampling: ImageSampling | None = None,
        on_text: OnText | None = None,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> Reply:
        """The next turn of a conversation: words, or a picture where the model begins one.

        A message is {"role": "user" | "assistant", "content": [str | image | Picture, ...]}. A Picture that was drawn
        before re-enters as its visual tokens, any other image as the vision encoder sees it.
        """
        turns, images = conversation_from_messages(messages, list(self._schedules.values()))
        with self.tracer.span("tokenize"):
            guided = self._writer.chat(turns)
        opened = _opened(images)
        full = with_defaults(sampling or TextSampling(), self.bundle.generation, "describe")
        with self._lock.request():
            seen = self._vision.understood(opened) if opened else []
            pictures = {schedule.tag: schedule for schedule in self._schedules.values()}
            answers = self._answers([self._embeds(guided.conditional, seen)], full, pictures, on_text, cancel)
            if isinstance(answers, list):
                return Reply(answers[0].text, None, answers[0].finish_reason)
            prompt = turns[-1].text if isinstance(turns[-1], UserTurn) else ""
            task, tagged = "edit" if opened else "draw", with_tag(guided, answers.tag)
            (picture,) = self._pictures(
                task, [prompt], [tagged], [answers], [seen], opened[-1:] or None, image_sampling, on_progress, cancel
            )
            return Reply("", picture)

    def _describe(
        self,
        images: Sequence[Source],
        questions: Sequence[str | None],
        sampling: TextSampling | None,
        on_text: OnText | None,
        cancel: Cancel | None,
    ) -> list[Answer]:
        _check_pairs(images, questions, "questions")
        full = with_defaults(sampling or TextSampling(), self.bundle.generation, "describe")
        with self.tracer.span("tokenize"):
            prompts = [self._writer.describe(question) for question in questions]
        answers: list[Answer] = []
        with self._lock.request():
            for first in range(0, len(prompts), MAX_DRAW_BATCH):
                part = slice(first, first + MAX_DRAW_BATCH)
                seen = self._vision.understood(_opened(images[part]))
                rows = [self._embeds(prompt, [one]) for prompt, one in zip(prompts[part], seen, strict=True)]
                answered = self._answers(rows, full, {}, on_text, cancel)
                assert isinstance(answered, list)
                answers += answered
        return answers

    def _answers(
        self,
        rows: Sequence[Embeds],
        sampling: TextSampling,
        pictures: Mapping[tuple[int, ...], Schedule],
        on_text: OnText | None,
        cancel: Cancel | None,
    ) -> list[Answer] | Schedule:
        """Answers to prompts that fit the context, or the picture that begins instead. Raises UsageError."""
        longest = max(map(len, rows))
        check_context(longest, sampling.max_tokens or 1, self.bundle.model.max_context, "the answer")
        with self.tracer.span("token loop"):
            return answer_rows(
                self._engine,
                self._tokenizer,
                self.bundle.vocabulary,
                rows,
                sampling,
                tracer=self.tracer,
                structure=self._schedule.structure,
                pictures=pictures,
                on_text=on_text,
                cancel=cancel,
            )

    def _pictures(
        self,
        task: str,
        texts: Sequence[str],
        prompts: Sequence[GuidedPrompt],
        schedules: Sequence[Schedule],
        seen: Sequence[Sequence[Seen]],
        sources: Sequence[Image.Image] | None,
        sampling: ImageSampling | None,
        on_progress: OnProgress | None,
        cancel: Cancel | None,
    ) -> list[Picture]:
        """Pictures of guided prompts, in batches; `sources` are the images whose sizes the results get back."""
        full = self._image_sampling(sampling, task)
        requests = []
        for number, (prompt, schedule, images) in enumerate(zip(prompts, schedules, seen, strict=True)):
            rows = (self._embeds(prompt.conditional, images), self._embeds(prompt.unconditional, images))
            longest = max(map(len, rows))
            check_context(longest, schedule.num_tokens, self.bundle.model.max_context, "the picture")
            requests.append(TokenRequest(*rows, number))
        previews = on_progress is not None and "code_color" in self.bundle.manifest.tables
        color = self.bundle.table("code_color") if previews else None
        pictures: list[Picture] = []
        for schedule, numbers in _batches(schedules):
            with self.tracer.span("token loop"):
                codes = draw_codes(
                    self._engine,
                    schedule,
                    [requests[i] for i in numbers],
                    full,
                    tracer=self.tracer,
                    code_color=color,
                    on_progress=on_progress,
                    cancel=cancel,
                )
            words, originals = [texts[i] for i in numbers], [sources[i] for i in numbers] if sources else None
            pictures += self._rendered(schedule, codes, numbers, words, originals, full, on_progress, cancel)
        return sorted(pictures, key=lambda picture: picture.request)

    def _rendered(
        self,
        schedule: Schedule,
        codes: Sequence[Codes],
        requests: Sequence[int],
        texts: Sequence[str],
        sources: Sequence[Image.Image] | None,
        sampling: ImageSampling,
        on_progress: OnProgress | None,
        cancel: Cancel | None,
    ) -> list[Picture]:
        pixels = pixels_of_codes(
            self._stages, schedule, codes, requests, sampling, on_progress=on_progress, cancel=cancel
        )
        with self.tracer.span("image"):
            images = [image_from_pixels(one) for one in pixels]
            if sources is not None:
                pairs = zip(images, sources, strict=True)
                images = [self._vision.restored(image, source.size) for image, source in pairs]
        return [
            Picture(image, one, text, sampling.seed, request)
            for image, one, text, request in zip(images, codes, texts, requests, strict=True)
        ]

    def _schedule_of(self, size: str | None) -> Schedule:
        """The schedule of a resolution's name. Raises UsageError that lists them."""
        if size is None:
            return self._schedule
        if size not in self._schedules:
            raise UsageError(f"size: got {size!r}, expected one of {', '.join(self._schedules)} (width x height)")
        return self._schedules[size]

    def _image_sampling(self, sampling: ImageSampling | None, task: str) -> ImageSampling:
        """The sampling with the task's defaults. Raises UsageError for more steps than the bundle allows."""
        full = with_defaults(sampling or ImageSampling(), self.bundle.generation, task)
        is_draft(self._stages, full)
        most = self.bundle.scheduler.max_steps
        if full.steps is not None and full.steps > most:
            raise UsageError(f"steps: got {full.steps}, expected at most {most}, as this bundle's scheduler says")
        return full

    def _asked(self, schedule: Schedule) -> Asked:
        return Asked(self._stages, self._engine, self._tokenizer, self._writer, schedule)

    def _embeds(self, prompt: Prompt, images: Sequence[Seen]) -> Embeds:
        with self.tracer.span("embed"):
            return embeds_of_prompt(self._engine, prompt, images)


def _batches(schedules: Sequence[Schedule]) -> Iterator[tuple[Schedule, list[int]]]:
    """Requests of one schedule, at most MAX_DRAW_BATCH, by their numbers; schedules in the order of their first one."""
    by_name: dict[str, list[int]] = {}
    for number, schedule in enumerate(schedules):
        by_name.setdefault(schedule.name, []).append(number)
    for numbers in by_name.values():
        for first in range(0, len(numbers), MAX_DRAW_BATCH):
            yield schedules[numbers[0]], numbers[first : first + MAX_DRAW_BATCH]


def _opened(images: Sequence[Source]) -> list[Image.Image]:
    """The images, each source opened once."""
    known: dict[int, Image.Image] = {}
    for source in images:
        if id(source) not in known:
            known[id(source)] = open_image(source)
    return [known[id(source)] for source in images]


def _check_pairs(images: Sequence[Source], texts: Sequence[str | None], what: str) -> None:
    if len(images) != len(texts):
        raise UsageError(f"got {len(images)} images and {len(texts)} {what}, expected one for each image")


def _checked_count(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_DRAW_BATCH:
        raise UsageError(f"n: got {n!r}, expected a whole number from 1 to {MAX_DRAW_BATCH}")
    return n

"""The pipeline: describe, chat, draw, edit, reconstruct, from one bundle.

A batch (`draw_many` and its kin) gives each request its place as number for the seed, so that a picture depends on
(seed, number, prompt) and the logits alone.

    with Pipeline.load("illume-tiny.bundle") as pipeline:
        picture = pipeline.draw("a red circle")[0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from illume_runtime.bundle import Bundle
from illume_runtime.conversation import conversation_from_messages
from illume_runtime.describing import answers_about, answers_or_picture, full_text_sampling
from illume_runtime.errors import UsageError
from illume_runtime.images import Source
from illume_runtime.model import model_from_stages
from illume_runtime.picturing import full_image_sampling, pictures_of_images, pictures_of_requests
from illume_runtime.prompts import UserTurn, with_tag
from illume_runtime.request_lock import RequestLock
from illume_runtime.requests import PictureRequest, check_pairs, checked_count, opened
from illume_runtime.residency import RESIDENCIES, Residency
from illume_runtime.results import Answer, Cancel, OnPreview, OnProgress, OnText, Picture, Progress, Reply
from illume_runtime.sampling import ImageSampling, TextSampling
from illume_runtime.session import OpenSession, session_from_stage
from illume_runtime.stages import Stages
from illume_runtime.trace import NULL_TRACER, Tracer

if TYPE_CHECKING:
    from illume_runtime.enhance.assessment import Assessment
    from illume_runtime.enhance.best_of import BestOf, BestPicture
    from illume_runtime.enhance.checklist import Check
    from illume_runtime.enhance.judge import Drawn

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
        residency: Residency = "all",
        open_session: OpenSession = session_from_stage,
    ) -> None:
        self.bundle = bundle
        self.tracer = tracer
        accelerator = None
        if device != "cpu" and open_session is session_from_stage:
            from illume_runtime.gpu.sessions import gpu_sessions

            accelerator, open_session = gpu_sessions(bundle, device)
        stages = Stages(bundle, device, threads, tracer, open_session, accelerator, residency)
        self._model = model_from_stages(stages)
        self._current = nullcontext if accelerator is None else accelerator.device.current
        self._lock = RequestLock(self._current)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory of all stages and caches back; a request after that raises UsageError."""
        self._lock.close()
        with self._current():
            self._model.close()

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        *,
        device: str = "cpu",
        threads: int | None = None,
        tracer: Tracer = NULL_TRACER,
        verify: bool = True,
        residency: Residency = "all",
    ) -> Pipeline:
        """The pipeline of a bundle on the device asked for. Raises what `Bundle.open` and the device raise.

        `staged`: only the stages of one phase are in memory at once, and each request loads them anew.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads: got {threads}, expected at least 1")
        whole = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, verify=verify)
        if residency not in RESIDENCIES:
            raise UsageError(f"residency: got {residency!r}, expected one of {', '.join(RESIDENCIES)}")
        pipeline = cls(whole, device=device, threads=threads, tracer=tracer, residency=residency)
        if residency == "all":
            _ = pipeline._model.stages["decoder"]  # so that a device that cannot be used is an error now
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
        on_preview: OnPreview | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """`n` pictures of a prompt, drawn as one batch; `size` is one of the bundle's resolutions, None its first.

        `on_preview` gets each picture as its first level alone shows it, while the second is still being written;
        UsageError for a model of one level.
        """
        count = checked_count(n)
        return self.draw_many(
            [prompt] * count,
            sizes=[size] * count,
            sampling=sampling,
            on_progress=on_progress,
            on_preview=on_preview,
            cancel=cancel,
        )

    def draw_many(
        self,
        prompts: Sequence[str],
        *,
        sizes: Sequence[str | None] | None = None,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """One picture per prompt, in the size beside it; all are drawn as one batch, in parts of MAX_DRAW_BATCH."""
        if sizes is not None and len(sizes) != len(prompts):
            raise UsageError(f"got {len(prompts)} prompts and {len(sizes)} sizes, expected one for each prompt")
        schedules = [self._model.schedule_of(size) for size in sizes or [None] * len(prompts)]
        with self.tracer.span("tokenize"):
            requests = [
                PictureRequest(prompt, self._model.writer.draw(prompt, schedule.tag), schedule)
                for prompt, schedule in zip(prompts, schedules, strict=True)
            ]
        with self._lock.request():
            return self._pictures("draw", requests, sampling, on_progress, cancel, on_preview)

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
        from illume_runtime.enhance.best_of import best_picture

        full = full_image_sampling(self._model, sampling, "draw")
        with self._lock.request():
            return best_picture(self._model, prompt, best_of, full, size=size, on_progress=on_progress, cancel=cancel)

    def assess_drawn(
        self, pictures: Sequence[Drawn], checklists: Sequence[tuple[Check, ...]] | None = None
    ) -> list[Assessment]:
        """What the model says of pictures of the default size that it drew, in batches.

        It answers the checklists [one a picture] where they are given, else those that it writes itself; UsageError for
        a model that did not learn to write them.
        """
        from illume_runtime.enhance.asking import own_assessments

        with self._lock.request():
            return own_assessments(self._model, pictures, checklists)

    def edit(
        self,
        image: Source,
        instruction: str,
        *,
        n: int = 1,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """`n` versions of an image changed as the instruction says, in the size of the image."""
        count = checked_count(n)
        return self.edit_many(
            [image] * count,
            [instruction] * count,
            sampling=sampling,
            on_progress=on_progress,
            on_preview=on_preview,
            cancel=cancel,
        )

    def edit_many(
        self,
        images: Sequence[Source],
        instructions: Sequence[str],
        *,
        sampling: ImageSampling | None = None,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        cancel: Cancel | None = None,
    ) -> list[Picture]:
        """One edited picture per image and instruction."""
        check_pairs(images, instructions, "instructions")
        model, sources = self._model, opened(images)
        schedules = [model.vision.schedule_for(image) for image in sources]
        with self.tracer.span("tokenize"):
            pairs = zip(instructions, schedules, strict=True)
            prompts = [model.writer.edit(instruction, schedule.tag) for instruction, schedule in pairs]
        with self._lock.request():
            seen = model.vision.drawn_again(sources)
            rows = zip(instructions, prompts, schedules, seen, sources, strict=True)
            requests = [
                PictureRequest(text, prompt, schedule, [one], source) for text, prompt, schedule, one, source in rows
            ]
            return self._pictures("edit", requests, sampling, on_progress, cancel, on_preview)

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
        full = full_image_sampling(self._model, sampling, "reconstruct")
        sources = opened(images)
        with self._lock.request():
            return pictures_of_images(self._model, sources, full, on_progress=on_progress, cancel=cancel)

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
        model = self._model
        schedules = list(model.schedules.values())
        turns, images = conversation_from_messages(messages, schedules)
        with self.tracer.span("tokenize"):
            guided = model.writer.chat(turns)
        sources = opened(images)
        full = full_text_sampling(model, sampling, [guided.conditional], [sources])
        with self._lock.request():
            seen = model.vision.understood(sources) if sources else []
            row, pictures = model.embeds(guided.conditional, seen), {schedule.tag: schedule for schedule in schedules}
            answers = answers_or_picture(model, [row], full, pictures, on_text=on_text, cancel=cancel)
            if isinstance(answers, list):
                return Reply(answers[0].text, None, answers[0].finish_reason)
            text = turns[-1].text if isinstance(turns[-1], UserTurn) else ""
            source = sources[-1] if sources else None
            request = PictureRequest(text, with_tag(guided, answers.tag), answers, seen, source)
            task = "edit" if sources else "draw"
            (picture,) = self._pictures(task, [request], image_sampling, on_progress, cancel)
            return Reply("", picture)

    def _describe(
        self,
        images: Sequence[Source],
        questions: Sequence[str | None],
        sampling: TextSampling | None,
        on_text: OnText | None,
        cancel: Cancel | None,
    ) -> list[Answer]:
        check_pairs(images, questions, "questions")
        with self.tracer.span("tokenize"):
            prompts = [self._model.writer.describe(question) for question in questions]
        with self._lock.request():
            return answers_about(self._model, images, prompts, sampling, on_text=on_text, cancel=cancel)

    def _pictures(
        self,
        task: str,
        requests: Sequence[PictureRequest],
        sampling: ImageSampling | None,
        on_progress: OnProgress | None,
        cancel: Cancel | None,
        on_preview: OnPreview | None = None,
    ) -> list[Picture]:
        full = full_image_sampling(self._model, sampling, task)
        return pictures_of_requests(
            self._model, requests, full, on_progress=on_progress, on_preview=on_preview, cancel=cancel
        )

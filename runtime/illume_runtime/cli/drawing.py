"""What `draw`, `edit` and `reconstruct` share: progress while the model works, then PNG files and one result."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from illume_runtime.cli.output import note, picture_paths, print_result, write_picture
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.running import Stopwatch, running, sampling_from_args
from illume_runtime.errors import UsageError

if TYPE_CHECKING:
    from illume_runtime.pipeline import ImageSampling, Picture, Pipeline, Progress

    OnPreview = Callable[[Picture], None]
    Drawing = Callable[[Pipeline, ImageSampling, Callable[[Progress], None], OnPreview | None], list[Picture]]


def draw_to_files(args: argparse.Namespace, verb: str, num_pictures: int, drawing: Drawing) -> int:
    """Load the bundle, call `drawing`, write its pictures to `args.output`, print the result; 0 when all is written."""
    paths = picture_paths(args.output, num_pictures)
    preview_paths = picture_paths(args.preview, num_pictures, "--preview") if getattr(args, "preview", None) else []
    if set(preview_paths) & set(paths):
        raise UsageError(f"--preview and --output are both {args.preview}; name two files")
    stopwatch = Stopwatch()
    with running(args, verb) as (pipeline, tracer):
        from illume_runtime.pipeline import ImageSampling

        load_ms = stopwatch.lap_ms()
        sampling = sampling_from_args(ImageSampling, args)
        about = {"verb": verb, "bundle": pipeline.bundle.name, "options": options_given(args)}
        previews: list[dict[str, Any]] = []

        def write_preview(picture: Picture) -> None:
            written = write_picture(preview_paths[picture.request], picture, {**about, "preview": True})
            previews.append(written)
            note(args, f"{written['file']}  preview of picture {picture.request}")

        with tracer.span(verb, "request"), ProgressBar() as bar:
            pictures = drawing(
                pipeline,
                sampling,
                lambda step: bar.update(step.phase, step.done, step.total),
                write_preview if preview_paths else None,
            )
            draw_ms = stopwatch.lap_ms()
            written = []
            for path, picture in zip(paths, pictures, strict=True):
                with tracer.span("png"):
                    written.append(write_picture(path, picture, about))
    result = {
        "verb": verb,
        "bundle": pipeline.bundle.name,
        "pictures": written,
        **({"previews": previews} if preview_paths else {}),
        "load_ms": load_ms,
        "draw_ms": draw_ms,
        "png_ms": stopwatch.lap_ms(),
    }
    lines = [f"{fact['file']}  seed {fact['seed']}, picture {fact['request']}" for fact in written]
    lines.append(f"loaded in {load_ms / 1e3:.2f} s, drawn in {draw_ms / 1e3:.2f} s")
    print_result(args, result, "\n".join(lines))
    return 0


def options_given(args: argparse.Namespace) -> dict[str, float | str]:
    """The sampling options of the command line that were given: with prompt and seed they give the picture again."""
    pictures = (
        "n",
        "size",
        "quality",
        "steps",
        "guidance",
        "diffusion_guidance",
        "repetition_penalty",
        "double_sampling",
    )
    names = (*pictures, "temperature", "top_k", "top_p", "min_p")
    given = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in given.items() if value is not None}

"""`illume chat`: a conversation with pictures, in a terminal or over a pipe.

Lines that begin with `/` are commands; everything else is said to the model, which may answer in words or by drawing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from illume_runtime.cli.output import note, picture_paths, print_result, write_picture
from illume_runtime.cli.parser import add_running, add_text_sampling, example
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.cli.running import running, sampling_from_args
from illume_runtime.errors import IllumeError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from illume_runtime.pipeline import Picture, Pipeline, Progress, TextSampling

HELP = """/image PATH   attach a picture to what you say next
/draw PROMPT  draw it; with a picture attached, change that picture
/save PATH    write the last drawn picture as PNG
/reset        forget the conversation
/quit         leave"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    add_running(parser)
    parser.add_argument("--image", action="append", default=[], metavar="IMAGE", help="attach a picture at the start")
    add_text_sampling(parser)
    example(parser, "illume chat build/illume-tiny.bundle --image build/demo/scene-0.png")


def run(args: argparse.Namespace) -> int:
    """Talk until /quit or the end of the input; a mistake in a line is reported and the conversation goes on."""
    with running(args, "chat") as (pipeline, tracer):
        from illume_runtime.pipeline import TextSampling

        conversation = Conversation(pipeline, sampling_from_args(TextSampling, args), args)
        for path in args.image:
            conversation.attach(path)
        if sys.stdin.isatty():
            note(args, HELP)
        while (line := _next_line()) is not None:
            try:
                with tracer.span("turn", "request"):
                    if not conversation.take(line):
                        break
            except IllumeError as error:
                note(args, f"error: {error}")
                conversation.events.append({"error": str(error), "exit_code": error.exit_code})
    if args.json:
        print_result(args, {"verb": "chat", "bundle": pipeline.bundle.name, "events": conversation.events}, "")
    return 0


@dataclass(slots=True)
class Conversation:
    """The turns so far, the pictures attached to the next one, and the last picture drawn."""

    pipeline: Pipeline
    sampling: TextSampling
    args: argparse.Namespace
    messages: list[dict[str, Any]] = field(default_factory=list)
    attached: list[Image] = field(default_factory=list)
    last_picture: Picture | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Obey one line; False where it ends the conversation. Raises IllumeError and leaves the turns unchanged."""
        command, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if command in ("/quit", "/exit"):
            return False
        if command == "/image":
            self.attach(rest)
        elif command == "/draw":
            self._draw(rest)
        elif command == "/save":
            self._save(rest)
        elif command == "/reset":
            self.messages.clear()
            self.attached.clear()
            self.last_picture = None
        elif command == "/help":
            note(self.args, HELP)
        elif command.startswith("/"):
            raise UsageError(f"there is no command {command}; /help lists them")
        elif line.strip() or self.attached:
            self._say(line.strip())
        return True

    def attach(self, path: str) -> None:
        """Add the picture file to what is said next."""
        from illume_runtime.images import image_from_file

        self.attached.append(image_from_file(path))
        note(self.args, f"attached {path}")

    def _say(self, text: str) -> None:
        turn = {"role": "user", "content": [*([text] if text else []), *self.attached]}
        with ProgressBar() as bar:
            reply = self.pipeline.chat(
                [*self.messages, turn], sampling=self.sampling, on_text=self._stream, on_progress=_shown_on(bar)
            )
        if reply.picture is not None:
            self._accept(turn, reply.picture, {"picture": reply.picture.prompt})
            note(self.args, "drew a picture; /save PATH writes it")
        else:
            self._accept(turn, reply.text, {"said": text, "answer": reply.text, "finish_reason": reply.finish_reason})
            if not self.args.json:
                print(flush=True)
            if reply.finish_reason == "length":
                note(self.args, "stopped at the longest answer; give more with --max-tokens")

    def _draw(self, prompt: str) -> None:
        if not prompt:
            raise UsageError("/draw needs a prompt, for example: /draw a red circle")
        with ProgressBar() as bar:
            on_progress = _shown_on(bar)
            if self.attached:
                picture = self.pipeline.edit(self.attached[-1], prompt, on_progress=on_progress)[0]
            else:
                picture = self.pipeline.draw(prompt, on_progress=on_progress)[0]
        turn = {"role": "user", "content": [prompt, *self.attached]}
        self._accept(turn, picture, {"drew": prompt})
        note(self.args, "drew it; /save PATH writes it")

    def _accept(self, turn: dict[str, Any], answer: str | Picture, event: dict[str, Any]) -> None:
        self.messages += [turn, {"role": "assistant", "content": [answer]}]
        self.attached = []
        self.events.append(event)
        if not isinstance(answer, str):
            self.last_picture = answer

    def _save(self, path: str) -> None:
        if self.last_picture is None:
            raise UsageError("no picture was drawn yet; draw one with /draw PROMPT")
        target = picture_paths(path, 1)[0]
        about = {"verb": "chat", "bundle": self.pipeline.bundle.name}
        self.events.append({"saved": write_picture(target, self.last_picture, about)["file"]})
        note(self.args, f"wrote {target}")

    def _stream(self, text: str) -> None:
        if not self.args.json:
            sys.stdout.write(text)
            sys.stdout.flush()


def _shown_on(bar: ProgressBar) -> Any:
    def on_progress(step: Progress) -> None:
        bar.update(step.phase, step.done, step.total)

    return on_progress


def _next_line() -> str | None:
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    return line if line else None

"""The `illume` command: finds the verb, runs it, and turns what went wrong into one line and an exit code.

Only the chosen verb's module is imported, and a verb imports onnxruntime only when it runs a model.
"""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, TextIO

from illume_runtime.cli.parser import VerbParser
from illume_runtime.errors import IllumeError, UnavailableError, UsageError

INTERRUPTED = 130
TERMINATED = 143  # 128 + SIGTERM, as shells count
PIPE_CLOSED = 0
OUTPUTS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb lives and what `illume --help` says of it. `extra` is what to install if it cannot be imported."""

    module: str
    summary: str
    extra: str = ""


VERBS: dict[str, Verb] = {
    "doctor": Verb("illume_runtime.cli.doctor", "what this machine can do"),
    "info": Verb("illume_runtime.cli.info", "what is in a bundle, and the memory that each stage takes"),
    "convert": Verb("illume_export.cli_convert", "make safetensors of legacy .bin weights", "export"),
    "export": Verb("illume_export.cli_export", "make a bundle from a checkpoint", "export"),
    "plan": Verb("illume_runtime.cli.plan", "the memory that a bundle or model takes, and which board it fits"),
    "verify": Verb("illume_export.cli_verify", "compare a bundle with its checkpoint, stage by stage", "export"),
    "calibrate": Verb(
        "illume_calibration.cli_calibrate", "make a bundle of 8-bit integers from a float one", "calibrate"
    ),
    "build": Verb("illume_export.cli_build", "make TensorRT engines of a bundle", "tensorrt-rtx"),
    "describe": Verb("illume_runtime.cli.describe", "answer a question about a picture"),
    "chat": Verb("illume_runtime.cli.chat", "talk with the model about pictures, and have it draw"),
    "draw": Verb("illume_runtime.cli.draw", "draw a picture from text"),
    "edit": Verb("illume_runtime.cli.edit", "change a picture as an instruction says"),
    "reconstruct": Verb("illume_runtime.cli.reconstruct", "draw a picture again from its visual tokens"),
    "eval": Verb("illume_training.evaluation.cli_eval", "measure answers and pictures with an independent checker"),
    "enhance generate": Verb("illume_runtime.cli.enhance_generate", "draw a corpus from a file of prompts"),
    "enhance assess": Verb("illume_training.enhancement.cli_assess", "judge the pictures of a corpus"),
    "enhance build": Verb("illume_training.enhancement.cli_build", "make lessons of a corpus and its assessments"),
    "profile": Verb("illume_runtime.cli.profile", "where the milliseconds go, stage by stage"),
    "train": Verb("illume_training.cli_train", "train a checkpoint by the three-stage recipe", "export"),
}

USAGE = """usage: illume VERB ...
       illume VERB --help

{summaries}

  --version   print the version
  --help      print this text

Every verb takes --json: one JSON object on standard output and nothing else there.
ILLUME_DEBUG=1 shows the traceback of an error.

exit codes: 0 ok, 2 usage, 3 this environment cannot do it, 4 invalid checkpoint or bundle, 5 export failed,
            6 quality under the bar, 7 out of memory, 8 incompatible engine, 130 interrupted, 143 terminated

example:
  illume doctor
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (that of this process if None) and give back its exit code."""
    if arguments is None:
        signal.signal(signal.SIGTERM, _terminate)
    words = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    try:
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(words, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard(sys.stdout)
        return PIPE_CLOSED
    except IllumeError as error:
        return _fail(words, str(error), error.exit_code)
    except MemoryError:
        return _fail(words, "out of memory; use a smaller -n, or close other programs", 7)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        advice = "; make room and run the command again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return _fail(words, f"{where}{error.strerror or error}{advice}", UnavailableError.exit_code)
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        summaries = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
        print(USAGE.format(summaries=summaries), end="")
        return 0
    if words[0] == "--version":
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"illume {version('illume-rt')}")
        except PackageNotFoundError:
            raise UnavailableError("illume-rt is not installed here; install it with: pip install -e .") from None
        return 0
    name = _verb_of(words)
    verb = VERBS.get(name)
    if verb is None:
        raise UsageError(f"there is no verb {name!r}; the verbs are {', '.join(VERBS)}")
    parser = VerbParser(prog=f"illume {name}", description=verb.summary)
    try:
        module = importlib.import_module(verb.module)
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(words[len(name.split()) :])))
    except ImportError as error:
        raise _import_error(error, verb) from error


def _verb_of(words: list[str]) -> str:
    """The verb of a command line: one word, or two where the first is only part of a name."""
    pair = " ".join(words[:2])
    return pair if pair in VERBS else words[0]


def _import_error(error: ImportError, verb: Verb) -> ImportError | UnavailableError:
    """What to say of a package that is missing or broken; the error itself if the mistake is ours."""
    package = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) and not package.startswith("illume_"):
        return UnavailableError(f"a package is installed here but cannot be loaded: {error}; install it again")
    if not package or package.startswith("illume_"):
        return error
    what = f"'illume-rt[{verb.extra}]'" if verb.extra else "illume-rt"
    return UnavailableError(
        f"this verb needs the package {package}, which is not installed; install it with: pip install {what}"
    )


def _fail(words: list[str], message: str, code: int) -> int:
    if os.environ.get("ILLUME_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    line = " ".join(message.split())
    who = f"illume {_verb_of(words)}" if words and _verb_of(words) in VERBS else "illume"
    _put(f"{who}: error: {line}\n", sys.stderr)
    _put(json.dumps({"error": {"message": line, "exit_code": code}}) + "\n" if "--json" in words else "", sys.stdout)
    return code


def _prepare_streams() -> None:
    """Let no stream fail for what is in it: a character that it cannot encode is escaped, a closed one is empty."""
    for name, mode, errors in (("stdin", "r", "surrogateescape"), *((n, "w", "backslashreplace") for n in OUTPUTS)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - for good
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=errors)


def _put(text: str, stream: TextIO) -> None:
    """Write the text and what was not yet written; where that fails there is nobody left to tell."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Throw away what could not be written, so that Python does not try again as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _terminate(number: int, frame: object) -> NoReturn:
    """End as Ctrl-C does, with temporary files removed."""
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())

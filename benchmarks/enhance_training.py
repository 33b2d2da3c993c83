"""The experiment behind docs/self-enhancement.md: a corpus, and the same training with and without it, per seed.

    python -m benchmarks.enhance_training build/enhance --from assets/illume-tiny --bundle build/illume-tiny.bundle

Each step is an `illume` command and is left out where its result is there, so that the same command goes on after a
kill. It ends with the command that measures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.enhance import prompt_lines, sampled_captions
from illume_runtime.files import atomic_write

CONFIG = Path(__file__).resolve().parents[1] / "training" / "configs" / "illume-tiny.toml"
SIDES = {"without": {}, "with": {"checklist": 16, "assess": 14, "correct": 1}}  # more lessons than the usual ones
GOING_ON = {"learning_rate": 2e-4, "muon_rate": 2e-3}  # from trained weights: higher ones undo first what was learnt


def config_text(seed: int, side: str, steps: int, corpus: Path, run: Path) -> str:
    """The shipped configuration, going on with stage 3 for `steps`, with or without a corpus."""
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    config |= {"seed": seed, "run": str(run / "run"), "output": str(run / "checkpoint")}
    stage = config["phases"]["stage3"]
    stage |= {"steps": steps, **GOING_ON, "mixture": stage["mixture"] | SIDES[side]}
    if SIDES[side]:
        stage["corpus"] = str(corpus)
    phases = config.pop("phases")
    lines = [*toml_lines(config)]
    for name, values in phases.items():
        lines += ["", f"[phases.{name}]", *toml_lines(values)]
    return "\n".join(lines) + "\n"


def toml_lines(values: Mapping[str, Any]) -> Iterator[str]:
    """`key = value`; a table within becomes an inline one."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{key} = {{ {', '.join(toml_lines(value))} }}"
        else:
            yield f"{key} = {json.dumps(value)}"


def illume(*words: object, log: Path) -> None:
    """Runs a command into a log. Raises CalledProcessError."""
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "illume_runtime", *map(str, words)]
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)


def draw_corpus(folder: Path, bundle: Path, num_prompts: int, temperature: float) -> Path:
    """The dialogues of a corpus of two samples a prompt; a warm sampler, as there is more to learn from what fails."""
    dialogues, log = folder / "dialogues", folder / "corpus.log"
    if not dialogues.exists():
        file, corpus = folder / "prompts.jsonl", folder / "corpus"
        with atomic_write(file) as temporary:
            captions = sampled_captions("corpus", num_prompts, "train")
            temporary.write_text(prompt_lines(captions), encoding="utf-8")
        illume("enhance", "generate", bundle, file, "-n", 2, "--temperature", temperature, "-o", corpus, log=log)
        illume("enhance", "assess", corpus, "--judge", "checker", log=log)
        illume("enhance", "build", corpus, "--altered", 2, "-o", dialogues, log=log)
    return dialogues


def train(folder: Path, start: Path, side: str, seed: int, steps: int, threads: int) -> Path:
    """One training and its bundle."""
    run = folder / f"{side}-{seed}"
    bundle, log = run / "illume-tiny.bundle", run / "log"
    if not bundle.exists():
        run.mkdir(exist_ok=True)
        config = run / "config.toml"
        config.write_text(config_text(seed, side, steps, folder / "dialogues", run), encoding="utf-8")
        illume("train", config, "--from", start, "--phases", "stage3", "--threads", threads, log=log)
        illume("export", run / "checkpoint", "-o", bundle, log=log)
    return bundle


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws, trains and says what to measure."""
    parser = argparse.ArgumentParser(description="train with and without a corpus, per seed")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where all of it goes; gone on with if begun")
    parser.add_argument("--from", type=Path, required=True, dest="start", metavar="CHECKPOINT", help="trained weights")
    parser.add_argument("--bundle", type=Path, required=True, metavar="BUNDLE", help="the same, exported")
    parser.add_argument("--prompts", type=int, default=1500, metavar="N", help="prompts of the corpus (1500)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of the corpus (1.0)")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="of each training (500)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="S", help="(1 2 3)")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="trainings at once (2)")
    parser.add_argument("--threads", type=int, default=1, metavar="T", help="threads of each (1)")
    args = parser.parse_args(arguments)
    folder: Path = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    draw_corpus(folder, args.bundle.resolve(), args.prompts, args.temperature)
    runs = [(side, seed) for seed in args.seeds for side in SIDES]
    with ThreadPoolExecutor(args.jobs) as pool:
        bundles = pool.map(lambda run: train(folder, args.start.resolve(), *run, args.steps, args.threads), runs)
        made = dict(zip(runs, bundles, strict=True))
    words = [
        word for (side, _), bundle in made.items() for word in ("--before" if side == "without" else "--after", bundle)
    ]
    print("python -m benchmarks.enhance", *words)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

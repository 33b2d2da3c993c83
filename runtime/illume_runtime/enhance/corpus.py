"""A corpus on disk: `corpus.json`, and one folder a batch of samples, there whole or not at all.

    corpus.json                 what made it: bundle, prompts, seed, sampling
    batches/000000/samples.jsonl, 000001-0.png, ...

Every file depends on `corpus.json` and the prompts alone, whoever wrote it and however often it was interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Literal

from illume_runtime.bundle import Bundle
from illume_runtime.errors import UsageError
from illume_runtime.files import atomic_directory, atomic_write, sha256_of
from illume_runtime.manifest import MANIFEST_NAME
from illume_runtime.typed_json import json_from_text, json_from_value, value_from_json

SCHEMA_VERSION = 1
FACTS_NAME, SAMPLES_NAME, BATCHES_NAME = "corpus.json", "samples.jsonl", "batches"


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What a corpus was made of; `codes_sha256` covers all that gives its token ids their meaning."""

    format: Literal["illume-corpus"]
    schema_version: int
    bundle: str
    bundle_sha256: str
    codes_sha256: str
    prompts_sha256: str
    num_samples: int
    samples_per_prompt: int
    batch: int
    seed: int
    sampling: Mapping[str, bool | int | float | str]  # what was asked for, beside the seed


@dataclass(frozen=True, slots=True)
class Sample:
    """A drawn picture: exact ids, forced ones included, and what draws it again (`seed`, `request`)."""

    id: str  # LINE-NUMBER, as in the name of its picture
    prompt: str
    seed: int
    request: int
    tokens: tuple[int, ...]
    picture: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus folder whose facts were read."""

    path: Path
    facts: CorpusFacts

    @property
    def num_batches(self) -> int:
        """Of the whole corpus."""
        return -(-self.facts.num_samples // self.facts.batch)

    def missing(self) -> list[int]:
        """Numbers of the batches that are not there yet."""
        return [number for number in range(self.num_batches) if not self.folder(number).is_dir()]

    def folder(self, number: int) -> Path:
        """The folder of a batch."""
        return self.path / BATCHES_NAME / f"{number:06d}"

    def write_batch(self, number: int, files: Mapping[str, bytes]) -> None:
        """The folder of a batch, whole or not at all."""
        with atomic_directory(self.folder(number)) as temporary:
            for name, content in files.items():
                (temporary / name).write_bytes(content)

    def samples(self) -> Iterator[tuple[Sample, Path]]:
        """All samples in order, with the files of their pictures. Raises UsageError for an unfinished corpus."""
        if missing := self.missing():
            raise UsageError(
                f"{self.path}: {len(missing)} of {self.num_batches} batches are missing; "
                "run `illume enhance generate` again, which goes on where it stopped"
            )
        for number in range(self.num_batches):
            path = self.folder(number) / SAMPLES_NAME
            for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    sample = value_from_json(Sample, json_from_text(text), "")
                except ValueError as error:
                    raise UsageError(f"{path}, line {line}: {error}; remove {path.parent} and generate again") from None
                yield sample, path.parent / sample.picture

    def check_codes(self, bundle: Bundle) -> None:
        """Raises UsageError if the ids of this corpus mean something else to the bundle."""
        if codes_sha256(bundle) != self.facts.codes_sha256:
            raise UsageError(
                f"{self.path} was drawn by another bundle ({self.facts.bundle}), whose codes are not those of "
                f"{bundle.path}; give the bundle that drew it, or one trained on from it"
            )


def open_corpus(path: Path) -> Corpus:
    """The corpus in a folder. Raises UsageError for what is none, or of an unknown version."""
    facts = path / FACTS_NAME
    if not facts.is_file():
        raise UsageError(f"{path}: has no {FACTS_NAME}; expected a folder that `illume enhance generate` made")
    try:
        data = json_from_text(facts.read_text(encoding="utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise UsageError(f"{facts}: schema_version {version} is unknown, expected {SCHEMA_VERSION}; update illume")
        return Corpus(path, value_from_json(CorpusFacts, data, ""))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{facts}: {error}; it was changed by hand, generate again") from None


@contextmanager
def corpus_to_write(path: Path, facts: CorpusFacts) -> Iterator[Corpus]:
    """The corpus to be made or gone on with, held by this process alone.

    Raises UsageError where another process writes it, or it was made of something else.
    """
    path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise UsageError(f"{path}: another process writes this corpus; wait for it, or choose a folder") from None
        if (path / FACTS_NAME).exists():
            _check_same(path, open_corpus(path).facts, facts)
        elif any(not _is_leftover(entry) for entry in path.iterdir()):
            raise UsageError(f"{path}: is a folder with other files; choose an empty or a new one")
        _remove_leftovers(path)
        if not (path / FACTS_NAME).exists():
            with atomic_write(path / FACTS_NAME) as temporary:
                temporary.write_text(json.dumps(json_from_value(facts), indent=1) + "\n", encoding="utf-8")
        (path / BATCHES_NAME).mkdir(exist_ok=True)
        yield Corpus(path, facts)
    finally:
        os.close(handle)


def bundle_sha256(bundle: Bundle) -> str:
    """The hash of `bundle.json`, which holds the hashes of all other files."""
    return sha256_of(bundle.path / MANIFEST_NAME)


def codes_sha256(bundle: Bundle) -> str:
    """The hash of vocabulary, grammar, tokenizer and code vectors."""
    manifest = bundle.manifest
    names = ["tokenizer.json", *(spec.file for name, spec in manifest.tables.items() if name.startswith("code_"))]
    parts = [
        json.dumps(json_from_value(manifest.vocabulary)),
        json.dumps(json_from_value(manifest.grammar)),
        *(manifest.files[name].sha256 for name in sorted(names)),
    ]
    return sha256("\n".join(parts).encode()).hexdigest()


def _check_same(path: Path, old: CorpusFacts, new: CorpusFacts) -> None:
    for field in fields(CorpusFacts):
        before, now = getattr(old, field.name), getattr(new, field.name)
        if before != now:
            what = "was drawn by another bundle" if field.name == "bundle_sha256" else "was begun with something else"
            raise UsageError(f"{path}: {what}: {field.name} was {before}, now it is {now}; choose another folder")


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".")


def _remove_leftovers(path: Path) -> None:
    """What a killed process left behind: files and folders under temporary names."""
    for folder in (path, path / BATCHES_NAME):
        for entry in folder.iterdir() if folder.is_dir() else ():
            if _is_leftover(entry):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

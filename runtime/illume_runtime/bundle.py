"""A bundle on disk, opened: every file is there, is what `bundle.json` says, and stays inside the folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from illume_runtime.consistency import check_consistency, is_inside
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.external_data import external_locations
from illume_runtime.files import sha256_of
from illume_runtime.limits import MAX_BUNDLE_JSON_BYTES, MAX_GENERATION_JSON_BYTES
from illume_runtime.manifest import (
    MANIFEST_NAME,
    AnySizePreprocessing,
    Grammar,
    Manifest,
    ModelSpec,
    NoiseScheduler,
    Preprocessing,
    Scheduler,
    StageSpec,
    Vocabulary,
    manifest_from_json,
)
from illume_runtime.templates import Prompts
from illume_runtime.typed_json import json_from_text, value_from_json

AGAIN = "copy the bundle or export the checkpoint again"
GenerationConfig = Mapping[str, Mapping[str, int | float]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle; `generation` holds the sampling defaults per task of `generation_config.json`."""

    path: Path
    manifest: Manifest
    generation: GenerationConfig

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Bundle:
        """The bundle at the path. `verify=False` leaves out the hashes, and nothing else.

        Raises UsageError if there is no such folder, InvalidBundleError for a bundle that is not as it should be.
        """
        path = Path(path)
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder; expected a bundle, as `illume export` makes one")
        if not (path / MANIFEST_NAME).exists():
            raise InvalidBundleError(f"{path}: has no {MANIFEST_NAME}, so it is no bundle; {AGAIN}")
        try:
            found = _files_on_disk(path)
            manifest = manifest_from_json(_json_from_file(path / MANIFEST_NAME, MAX_BUNDLE_JSON_BYTES))
            check_consistency(manifest)
            _check_files(path, manifest, found, verify)
            _check_external_data(path, manifest)
            data = _json_from_file(path / "generation_config.json", MAX_GENERATION_JSON_BYTES)
            generation = _generation(data)
        except InvalidBundleError as error:
            raise InvalidBundleError(f"{path}: {error}") from error
        return cls(path, manifest, generation)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def family(self) -> str:
        """The model's family."""
        return self.manifest.family

    @property
    def tools(self) -> Mapping[str, str]:
        """Versions that made the bundle."""
        return self.manifest.tools

    @property
    def stages(self) -> Mapping[str, StageSpec]:
        """The graphs by name."""
        return self.manifest.stages

    @property
    def model(self) -> ModelSpec:
        """Sizes of the language model."""
        return self.manifest.model

    @property
    def vocabulary(self) -> Vocabulary:
        """The token ids."""
        return self.manifest.vocabulary

    @property
    def grammar(self) -> Grammar:
        """The image programs."""
        return self.manifest.grammar

    @property
    def prompts(self) -> Prompts:
        """The prompt templates."""
        return self.manifest.prompts

    @property
    def preprocessing(self) -> Preprocessing | AnySizePreprocessing:
        """How a picture becomes pixel values."""
        return self.manifest.preprocessing

    @property
    def scheduler(self) -> Scheduler | NoiseScheduler:
        """How latents are denoised."""
        return self.manifest.scheduler

    def stage(self, name: str) -> StageSpec:
        """The stage of that name. Raises InvalidBundleError."""
        if name not in self.stages:
            raise InvalidBundleError(f"{self.path}: has no stage {name!r}; it has {', '.join(self.stages)}")
        return self.stages[name]

    def stage_path(self, name: str) -> Path:
        """The file of a stage. Raises InvalidBundleError."""
        return self.path / self.stage(name).file

    def table(self, name: str) -> NDArray[np.generic]:
        """An array of the bundle, memory-mapped and read-only. Raises InvalidBundleError."""
        if name not in self.manifest.tables:
            raise InvalidBundleError(f"{self.path}: has no table {name!r}; it has {', '.join(self.manifest.tables)}")
        spec = self.manifest.tables[name]
        try:
            array: NDArray[np.generic] = np.load(self.path / spec.file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise InvalidBundleError(f"{self.path}: {spec.file} is no array that can be mapped: {error}") from error
        if str(array.dtype) != spec.dtype or array.shape != spec.shape or not array.flags.c_contiguous:
            raise InvalidBundleError(
                f"{self.path}: {spec.file} holds {array.dtype} {list(array.shape)}, "
                f"expected {spec.dtype} {list(spec.shape)} in C order; {AGAIN}"
            )
        return array


def _files_on_disk(folder: Path) -> dict[str, int]:
    """Relative POSIX path -> size of every file. Raises InvalidBundleError for anything but plain files."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            facts = path.lstat()
            if stat.S_ISLNK(facts.st_mode):
                raise InvalidBundleError(f"{relative} is a symbolic link; put the file itself there")
            if stat.S_ISDIR(facts.st_mode):
                continue
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidBundleError(f"{relative} is no regular file; remove it")
            if facts.st_nlink > 1:
                raise InvalidBundleError(f"{relative} is a hard link ({facts.st_nlink} names); put a copy there")
            found[relative] = facts.st_size
    return found


def _check_files(folder: Path, manifest: Manifest, found: Mapping[str, int], verify: bool) -> None:
    for name, spec in manifest.files.items():
        if name not in found:
            raise InvalidBundleError(f"{name} is missing; {AGAIN}")
        if found[name] != spec.num_bytes:
            raise InvalidBundleError(f"{name} has {found[name]} bytes, expected {spec.num_bytes}; {AGAIN}")
    unlisted = sorted(set(found) - set(manifest.files) - {MANIFEST_NAME})
    if unlisted:
        raise InvalidBundleError(f"{unlisted[0]} is not listed in {MANIFEST_NAME}; remove it")
    if not verify:
        return
    for name, spec in manifest.files.items():
        got = sha256_of(folder / name)
        if got != spec.sha256:
            raise InvalidBundleError(f"{name} was changed: its SHA-256 is {got}, expected {spec.sha256}; {AGAIN}")


def _check_external_data(folder: Path, manifest: Manifest) -> None:
    for stage in manifest.stages.values():
        parent = PurePosixPath(stage.file).parent
        for location in sorted(external_locations(folder / stage.file)):
            if not is_inside(location):
                raise InvalidBundleError(f"{stage.file}: has weights at {location!r}, outside the bundle; {AGAIN}")
            if str(parent / location) not in manifest.files:
                raise InvalidBundleError(f"{stage.file}: has weights at {location!r}, which is not listed in files")


def _json_from_file(path: Path, max_bytes: int) -> object:
    num_bytes = path.stat().st_size
    if num_bytes > max_bytes:
        raise InvalidBundleError(f"{path.name} has {num_bytes} bytes, expected at most {max_bytes}")
    try:
        data: object = json_from_text(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidBundleError(f"{path.name}: no JSON: {error}; {AGAIN}") from error
    return data


def _generation(data: object) -> GenerationConfig:
    try:
        return value_from_json(GenerationConfig, data, "generation_config.json")  # type: ignore[type-abstract]
    except ValueError as error:
        raise InvalidBundleError(str(error)) from error

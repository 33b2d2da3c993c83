"""A quantized bundle on disk from a float one: complete and checked, or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import onnx

from illume_calibration.embedding_table import write_int8_embedding
from illume_calibration.graph_file import lean_graph_from_stage, save_graph
from illume_calibration.quantizing import quantize_stage
from illume_calibration.recipe import Recipe
from illume_calibration.statistics import Statistics
from illume_runtime.bundle import Bundle
from illume_runtime.errors import UsageError
from illume_runtime.files import atomic_directory, sha256_of
from illume_runtime.manifest import MANIFEST_NAME, FileSpec, Manifest, StageSpec, json_from_manifest
from illume_runtime.quantization import CalibrationData, Quality, Quantization, StageQuantization

OnStage = Callable[[str, int, int], None]
Judge = Callable[[Bundle], Quality]


@dataclass(frozen=True, slots=True)
class Source:
    """The float bundle and what calibration found."""

    bundle: Bundle
    statistics: Statistics
    data: CalibrationData


def check_float(bundle: Bundle) -> None:
    """Raise UsageError if the bundle is quantized already."""
    if bundle.manifest.quantization is not None:
        raise UsageError(
            f"{bundle.path} is quantized already (recipe {bundle.manifest.quantization.recipe}); "
            "start from the float bundle, as `illume export` makes it"
        )


def bundle_from_recipe(source: Source, recipe: Recipe, output: Path, judge: Judge | None, on_stage: OnStage) -> Bundle:
    """Write the quantized bundle, judge it, and give it back. Raises UsageError, and what `judge` raises."""
    bundle = source.bundle
    check_float(bundle)
    with atomic_directory(output) as folder:
        stages, reports = _write_stages(source, recipe, folder, on_stage)
        tables = write_int8_embedding(bundle, folder) if recipe.has_int8_embedding else {}
        replaced = {bundle.manifest.tables[name].file for name in tables if name in bundle.manifest.tables}
        for name in bundle.manifest.files:
            if not name.startswith("stages/") and name not in replaced:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, folder / name)
        quantization = Quantization(
            recipe=recipe.name,
            method=recipe.method,
            percentile=recipe.percentile,
            source_sha256=sha256_of(bundle.path / MANIFEST_NAME),
            data=source.data,
            stages=reports,
        )
        manifest = replace(
            bundle.manifest,
            precision="int8",
            tools={**bundle.tools, "illume-rt": version("illume-rt"), "onnx": onnx.__version__},
            stages=stages,
            tables={**bundle.manifest.tables, **tables},
            files=_files(folder),
            quantization=quantization,
        )
        _write_manifest(folder, manifest)
        made = Bundle.open(folder, verify=False)  # what is written can be opened
        if judge is not None:
            quality = judge(made)
            _write_manifest(folder, replace(manifest, quantization=replace(quantization, quality=quality)))
    return Bundle.open(output, verify=False)


def _write_stages(
    source: Source, recipe: Recipe, folder: Path, on_stage: OnStage
) -> tuple[dict[str, StageSpec], dict[str, StageQuantization]]:
    (folder / "stages").mkdir()
    stages, reports = {}, {}
    for done, (name, spec) in enumerate(source.bundle.stages.items()):
        on_stage(name, done, len(source.bundle.stages))
        how = recipe.stage(name)
        target = folder / "stages" / f"{name}.onnx"
        if how is None:
            for file in {spec.file, f"{spec.file}.data"} & source.bundle.manifest.files.keys():
                shutil.copyfile(source.bundle.path / file, folder / file)
            stages[name] = spec
            continue
        model = lean_graph_from_stage(source.bundle.path, spec)
        quantized = quantize_stage(name, model, source.statistics.get(name), recipe, how)
        save_graph(model, target)
        stages[name] = replace(spec, file=f"stages/{name}.onnx", weight_bytes=quantized.weight_bytes)
        reports[name] = quantized.report
    if not reports:
        raise UsageError(f"recipe {recipe.name}: quantizes no stage; name some of {', '.join(source.bundle.stages)}")
    return stages, reports


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(json_from_manifest(manifest), indent=1)
    (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def _files(folder: Path) -> dict[str, FileSpec]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): FileSpec(path.stat().st_size, sha256_of(path)) for path in paths}

"""What the keys of a manifest must say of each other."""

from __future__ import annotations

from pathlib import PurePosixPath

from illume_runtime.errors import InvalidBundleError
from illume_runtime.manifest import (
    EMBEDDING_SCALE_TABLE,
    EMBEDDING_TABLE,
    MANIFEST_NAME,
    AnySizePreprocessing,
    Manifest,
    NoiseScheduler,
    Preprocessing,
    Scheduler,
    Vocabulary,
)
from illume_runtime.schedule import schedule_from_resolution
from illume_runtime.solver import solvers_of
from illume_runtime.templates import ControlPart, SlotPart, Template

Shape = tuple[int | str, ...]

READERS = ("vision_encoder", "image_tokenizer")
TASKS = ("draw", "edit", "reconstruct")  # that may have templates of their own


def check_consistency(manifest: Manifest) -> None:
    """Raise InvalidBundleError, beginning with a key's path, if a key contradicts another or has no sense."""
    _check_files(manifest)
    _check_quantization(manifest)
    _check_sizes(manifest)
    _check_vocabulary(manifest.vocabulary)
    _check_templates(manifest)
    _check_tables(manifest)
    _check_stages(manifest)
    resolutions = manifest.grammar.image.resolutions
    names = [resolution.name for resolution in resolutions]
    if not names or len(set(names)) != len(names):
        raise InvalidBundleError(
            f"grammar.image.resolutions: has the names {names}, expected at least one, all different"
        )
    _check_resolution_names(manifest, names)
    for resolution in resolutions:
        schedule_from_resolution(resolution, manifest.vocabulary)


def _check_resolution_names(manifest: Manifest, names: list[str]) -> None:
    """Keys that name resolutions must name those of the grammar, and size ids all of them."""
    if isinstance(manifest.scheduler, NoiseScheduler) and set(manifest.scheduler.size_ids) != set(names):
        raise InvalidBundleError(f"scheduler.size_ids: has {list(manifest.scheduler.size_ids)}, expected {names}")
    if isinstance(manifest.preprocessing, AnySizePreprocessing):
        unknown = [name for name in manifest.preprocessing.anchors if name not in names]
        if unknown or not manifest.preprocessing.anchors:
            raise InvalidBundleError(f"preprocessing.anchors: got {unknown or 'none'}, expected some of {names}")


def _check_files(manifest: Manifest) -> None:
    for file, spec in manifest.files.items():
        if not is_inside(file) or file == MANIFEST_NAME:
            raise InvalidBundleError(f"files.{file}: not a relative path inside the bundle")
        if spec.num_bytes < 0 or len(spec.sha256) != 64 or set(spec.sha256) - set("0123456789abcdef"):
            raise InvalidBundleError(f"files.{file}: expected a size and 64 hexadecimal digits")
    for kind, specs in (("stages", manifest.stages), ("tables", manifest.tables)):
        for name, entry in specs.items():
            if entry.file not in manifest.files:
                raise InvalidBundleError(f"{kind}.{name}.file: {entry.file} is not listed in files")
    for required in ("tokenizer.json", "generation_config.json"):
        if required not in manifest.files:
            raise InvalidBundleError(f"files: {required} is missing")
    for name, table in manifest.tables.items():
        if any(size < 1 for size in table.shape):
            raise InvalidBundleError(f"tables.{name}.shape: got {list(table.shape)}, expected positive sizes")


def _check_tables(manifest: Manifest) -> None:
    """A table that the runtime knows must have a row for every id that is looked up in it."""
    width, vocabulary = manifest.model.hidden_size, manifest.vocabulary
    expected: dict[str, tuple[int | None, ...]] = {
        EMBEDDING_TABLE: (vocabulary.size, width),
        EMBEDDING_SCALE_TABLE: (vocabulary.size,),
    }
    if any(segment.name == "level0" for segment in vocabulary.segments):
        num_codes = vocabulary.segment("level0").size
        expected |= {"code_embedding": (num_codes, None), "code_color": (num_codes, 3)}
    for name, shape in expected.items():
        table = manifest.tables.get(name)
        if table is None:
            continue
        fits = len(table.shape) == len(shape) and all(e in (None, g) for g, e in zip(table.shape, shape, strict=True))
        if not fits:
            wanted = ["any" if size is None else size for size in shape]
            raise InvalidBundleError(f"tables.{name}.shape: got {list(table.shape)}, expected {wanted}")
    _check_embedding(manifest)


def _check_embedding(manifest: Manifest) -> None:
    """Rows in float, or in int8 with a scale for each."""
    table, scale = manifest.tables.get(EMBEDDING_TABLE), manifest.tables.get(EMBEDDING_SCALE_TABLE)
    if table is not None and table.dtype not in ("float32", "float16", "int8"):
        raise InvalidBundleError(
            f"tables.{EMBEDDING_TABLE}.dtype: got {table.dtype}, expected float32, float16 or int8"
        )
    is_int8 = table is not None and table.dtype == "int8"
    if is_int8 != (scale is not None):
        got = "is missing" if is_int8 else f"expected only where {EMBEDDING_TABLE} is int8"
        raise InvalidBundleError(f"tables.{EMBEDDING_SCALE_TABLE}: {got}; quantize or export the bundle again")
    if scale is not None and scale.dtype != "float32":
        raise InvalidBundleError(f"tables.{EMBEDDING_SCALE_TABLE}.dtype: got {scale.dtype}, expected float32")


def _check_stages(manifest: Manifest) -> None:
    """A graph's sizes must be those that the rest of the manifest makes the runtime give to it."""
    width = manifest.model.hidden_size
    expected: dict[tuple[str, str], Shape] = {
        **{(name, port): shape for name in READERS for port, shape in _read_shapes(manifest.preprocessing).items()},
        **{(name, "latents"): _latent_shape(manifest.scheduler) for name in ("denoiser", "vae_decoder")},
        ("decoder", "inputs_embeds"): ("B", "T", width),
        ("decoder", "hidden"): ("B", "T", width),
    }
    for segment in manifest.vocabulary.segments:
        expected[f"head_{segment.name}", "hidden"] = ("B", width)
        expected[f"head_{segment.name}", "logits"] = ("B", segment.size)
    for name, stage in manifest.stages.items():
        for port in (*stage.inputs, *stage.outputs):
            shape = expected.get((name, port.name), port.shape)
            sizes = [(g, e) for g, e in zip(port.shape, shape, strict=False) if isinstance(e, int)]
            if len(port.shape) != len(shape) or any(g != e for g, e in sizes if isinstance(g, int)):
                raise InvalidBundleError(
                    f"stages.{name}: {port.name} has the shape {list(port.shape)}, expected {list(shape)}"
                )


def _read_shapes(preprocessing: Preprocessing | AnySizePreprocessing) -> dict[str, Shape]:
    """The inputs of the stages that read pictures."""
    if isinstance(preprocessing, Preprocessing):
        return {"pixel_values": ("B", 3, *preprocessing.image_size)}
    return {"pixel_values": ("B", 3, "Y", "X"), "patches": ("P", 3 * preprocessing.patches.size**2)}


def _latent_shape(scheduler: Scheduler | NoiseScheduler) -> Shape:
    if isinstance(scheduler, Scheduler):
        return ("B", *scheduler.latent_shape)
    return ("B", scheduler.latent_channels, "Y", "X")


def _check_quantization(manifest: Manifest) -> None:
    if (manifest.quantization is None) != (manifest.precision != "int8"):
        raise InvalidBundleError(f"quantization: expected exactly where precision is int8: {manifest.precision}")
    unknown = sorted(set(manifest.quantization.stages if manifest.quantization else ()) - set(manifest.stages))
    if unknown:
        raise InvalidBundleError(f"quantization.stages.{unknown[0]}: there is no such stage")


def _check_sizes(manifest: Manifest) -> None:
    model, scheduler, preprocessing = manifest.model, manifest.scheduler, manifest.preprocessing
    sizes = {
        "model.hidden_size": model.hidden_size,
        "model.num_layers": model.num_layers,
        "model.num_kv_heads": model.num_kv_heads,
        "model.head_dim": model.head_dim,
        "model.max_context": model.max_context,
        **_preprocessing_sizes(preprocessing),
        **_scheduler_sizes(scheduler),
        "scheduler.default_steps": scheduler.default_steps,
        "vocabulary.size": manifest.vocabulary.size,
    }
    for path, size in sizes.items():
        if size < 1:
            raise InvalidBundleError(f"{path}: got {size}, expected at least 1")
    if scheduler.max_steps < scheduler.default_steps:
        raise InvalidBundleError(f"scheduler.max_steps: got {scheduler.max_steps}, expected at least default_steps")
    _check_noise(scheduler)
    if min(preprocessing.std) <= 0:
        raise InvalidBundleError(f"preprocessing.std: got {list(preprocessing.std)}, expected positive numbers")
    if not all(0 <= value <= 255 for value in preprocessing.pad_color):
        raise InvalidBundleError(f"preprocessing.pad_color: got {list(preprocessing.pad_color)}, expected 0 to 255")


def _check_noise(scheduler: Scheduler | NoiseScheduler) -> None:
    if isinstance(scheduler, Scheduler) and not scheduler.shift > 0:
        raise InvalidBundleError(f"scheduler.shift: got {scheduler.shift}, expected a positive number")
    if isinstance(scheduler, NoiseScheduler) and not 0 < scheduler.beta_start <= scheduler.beta_end < 1:
        raise InvalidBundleError(
            f"scheduler.beta_start: got {scheduler.beta_start} to {scheduler.beta_end}, expected them between 0 and 1"
        )
    if isinstance(scheduler, NoiseScheduler) and scheduler.solver == "dpmpp_2m" and scheduler.final_sigma != "zero":
        raise InvalidBundleError("scheduler.final_sigma: got 'first', expected 'zero', where dpmpp_2m ends")
    known = solvers_of(scheduler)
    if scheduler.solver not in known:
        raise InvalidBundleError(f"scheduler.solver: got {scheduler.solver!r}, expected one of {', '.join(known)}")


def _preprocessing_sizes(preprocessing: Preprocessing | AnySizePreprocessing) -> dict[str, int]:
    if isinstance(preprocessing, Preprocessing):
        return {"preprocessing.image_size": min(preprocessing.image_size)}
    sizes = {name: getattr(preprocessing, name) for name in ("multiple", "min_pixels", "max_pixels", "max_side")}
    sizes |= {"patches.size": preprocessing.patches.size, "patches.merge": preprocessing.patches.merge}
    return {f"preprocessing.{name}": size for name, size in sizes.items()}


def _scheduler_sizes(scheduler: Scheduler | NoiseScheduler) -> dict[str, int]:
    if isinstance(scheduler, Scheduler):
        return {"scheduler.latent_shape": min(scheduler.latent_shape)}
    names = ("num_train_steps", "latent_channels", "latents_per_code")
    return {f"scheduler.{name}": getattr(scheduler, name) for name in names}


def _check_vocabulary(vocabulary: Vocabulary) -> None:
    end = 0
    for segment in sorted(vocabulary.segments, key=lambda segment: segment.start):
        if not end <= segment.start < segment.end <= vocabulary.size:
            raise InvalidBundleError(
                f"vocabulary.segments: {segment.name} is [{segment.start}, {segment.end}), expected a range from {end} "
                f"to at most {vocabulary.size} that overlaps no other"
            )
        end = segment.end
    if len({segment.name for segment in vocabulary.segments}) != len(vocabulary.segments):
        raise InvalidBundleError("vocabulary.segments: two segments have the same name")
    for name, identifier in vocabulary.controls.items():
        if not 0 <= identifier < vocabulary.size:
            raise InvalidBundleError(
                f"vocabulary.controls.{name}: got {identifier}, expected an id below {vocabulary.size}"
            )
    if len(set(vocabulary.controls.values())) != len(vocabulary.controls):
        raise InvalidBundleError("vocabulary.controls: two controls have the same id")
    vocabulary.segment("text")
    for name in ("end", "start_of_image"):
        vocabulary.control(name)


def _check_templates(manifest: Manifest) -> None:
    prompts = manifest.prompts
    for name in ("begin", "user", "end"):
        slots = _slots(getattr(prompts, name), manifest.vocabulary)
        expected = ["images", "text"] if name == "user" else []
        if sorted(slots) != expected:
            raise InvalidBundleError(f"prompts.{name}: has the slots {slots}, expected {expected}")
    for task, templates in prompts.tasks.items():
        if task not in TASKS:
            raise InvalidBundleError(f"prompts.tasks.{task}: unknown task, expected some of {', '.join(TASKS)}")
        for side in ("conditional", "unconditional"):
            slots = _slots(getattr(templates, side), manifest.vocabulary)
            asked = {"text"} if side == "conditional" and task != "reconstruct" else set()
            asked |= {"images"} if task != "draw" else set()
            got = [slot for slot in slots if slot != "resolution"]
            if sorted(got) != sorted(asked):
                raise InvalidBundleError(f"prompts.tasks.{task}.{side}: has the slots {got}, expected {sorted(asked)}")


def _slots(template: Template, vocabulary: Vocabulary) -> list[str]:
    """The slots of a template, whose controls must exist."""
    for part in template:
        if isinstance(part, ControlPart):
            vocabulary.control(part.control)
    return [part.slot for part in template if isinstance(part, SlotPart)]


def is_inside(path: str) -> bool:
    """Whether it is a relative POSIX path in its shortest form that stays inside the folder it is relative to."""
    parts = path.split("/")
    unsafe = "\\" in path or "\0" in path or ":" in path
    return not unsafe and all(part not in ("", ".", "..") for part in parts) and not PurePosixPath(path).is_absolute()

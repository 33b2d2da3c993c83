"""`illume info`: what is in a bundle, what it takes to run it, and the limits that the runtime holds it to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from illume_runtime import limits
from illume_runtime.cli.output import print_result
from illume_runtime.cli.parser import add_json, example
from illume_runtime.cli.table import megabytes, table
from illume_runtime.quantization import NO_DATA

if TYPE_CHECKING:
    from illume_runtime.bundle import Bundle
    from illume_runtime.manifest import ModelSpec, StageSpec

FLOAT32_BYTES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that `illume export` made")
    parser.add_argument("--no-verify", action="store_true", help="do not hash the bundle's files")
    add_json(parser)
    example(parser, "illume info build/illume-tiny.bundle")


def run(args: argparse.Namespace) -> int:
    """Open the bundle, which checks it, and print what it says."""
    from illume_runtime.bundle import Bundle

    data = data_from_bundle(Bundle.open(args.bundle, verify=not args.no_verify))
    print_result(args, data, _text(data))
    return 0


def data_from_bundle(bundle: Bundle) -> dict[str, Any]:
    """What the verb prints, as JSON data."""
    from illume_runtime.schedule import schedule_from_resolution
    from illume_runtime.typed_json import json_from_value

    model = bundle.model
    quantization = bundle.manifest.quantization
    schedules = [schedule_from_resolution(item, bundle.vocabulary) for item in bundle.grammar.image.resolutions]
    return {
        "verb": "info",
        "name": bundle.name,
        "family": bundle.family,
        "path": str(bundle.path),
        "precision": bundle.manifest.precision,
        "schema_version": bundle.manifest.schema_version,
        "tools": dict(bundle.tools),
        "bytes": sum(file.num_bytes for file in bundle.manifest.files.values()),
        "stages": {name: _stage_data(stage) for name, stage in bundle.stages.items()},
        "tables": {
            name: {"bytes": bundle.manifest.files[spec.file].num_bytes, "dtype": spec.dtype, "shape": list(spec.shape)}
            for name, spec in bundle.manifest.tables.items()
        },
        "max_context": model.max_context,
        "cache_bytes_per_row": cache_bytes_per_row(model),
        "vocabulary": {segment.name: segment.size for segment in bundle.vocabulary.segments},
        "pictures": [
            {
                "name": schedule.name,
                "tokens": schedule.num_tokens,
                "steps": len(schedule.steps),
                "context_of_an_input": schedule.num_input_tokens,
            }
            for schedule in schedules
        ],
        "diffusion": {
            "solver": bundle.scheduler.solver,
            "default_steps": bundle.scheduler.default_steps,
            "max_steps": bundle.scheduler.max_steps,
        },
        "generation": {task: dict(options) for task, options in bundle.generation.items()},
        "quantization": json_from_value(quantization) if quantization is not None else None,
        "limits": {name.lower(): value for name, value in vars(limits).items() if name.isupper()},
    }


def cache_bytes_per_row(model: ModelSpec) -> int:
    """Keys and values of all layers for a whole context, float32: what each batch row adds to the memory."""
    per_token = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    return per_token * model.max_context * FLOAT32_BYTES


def _stage_data(stage: StageSpec) -> dict[str, Any]:
    return {
        "file": stage.file,
        "opset": stage.opset,
        "weight_bytes": stage.weight_bytes,
        "params": stage.params,
        "flops": {"per": stage.flops.per, "count": stage.flops.count},
        "parity": {"max_abs_error": stage.parity.max_abs_error, "tolerance": stage.parity.tolerance}
        if stage.parity is not None
        else None,
    }


def _text(data: dict[str, Any]) -> str:
    stages = [
        [
            name,
            f"{stage['params']:,}",
            megabytes(stage["weight_bytes"]),
            f"{stage['flops']['count'] / 1e6:,.1f} per {stage['flops']['per']}",
            *(
                [f"{stage['parity']['max_abs_error']:.1e}", f"{stage['parity']['tolerance']:.0e}"]
                if stage["parity"]
                else ["not compared", ""]
            ),
        ]
        for name, stage in data["stages"].items()
    ]
    facts = [
        ["made by", ", ".join(f"{tool} {version}" for tool, version in data["tools"].items())],
        ["files", megabytes(data["bytes"])],
        ["weights of all stages", megabytes(sum(stage["weight_bytes"] for stage in data["stages"].values()))],
        ["tables, mapped from disk", megabytes(sum(entry["bytes"] for entry in data["tables"].values()))],
        *[
            [f"table {name}", f"{entry['dtype']}, {megabytes(entry['bytes'])}"]
            for name, entry in data["tables"].items()
        ],
        ["KV cache per batch row", f"{megabytes(data['cache_bytes_per_row'])} for {data['max_context']} tokens"],
        ["vocabulary", ", ".join(f"{name} {size}" for name, size in data["vocabulary"].items())],
        *[
            [
                f"picture {it['name']}",
                f"{it['tokens']} tokens in {it['steps']} steps; as an input it takes {it['context_of_an_input']}",
            ]
            for it in data["pictures"]
        ],
        ["diffusion", "{solver}, {default_steps} steps, at most {max_steps}".format(**data["diffusion"])],
        *[
            [f"defaults of {task}", ", ".join(f"{name} {value:g}" for name, value in options.items())]
            for task, options in data["generation"].items()
        ],
        *[[f"limit {name}", f"{value:,}"] for name, value in data["limits"].items()],
    ]
    heading = f"{data['name']} ({data['family']}, {data['precision']}) in {data['path']}"
    header = ["stage", "parameters", "weights", "MFLOPs", "error to PyTorch", "allowed"]
    parts = [heading, table(header, stages), table(["bundle", ""], facts, left=2)]
    if data["quantization"] is not None:
        parts.append(_quantization_text(data["quantization"]))
    return "\n\n".join(parts)


def _quantization_text(data: dict[str, Any]) -> str:
    """How the bundle was quantized, and the figures of its quality gate."""
    source = data["data"]
    header = ["quantized", "weights", "activations", "layers", "weights alone", "float", "SQNR to float", "cosine"]
    quality = data.get("quality")
    rows = []
    for name, stage in data["stages"].items():
        counts = [str(stage["num_layers"]), str(len(stage["weight_only"])), str(len(stage["kept"]))]
        found = quality["stages"].get(name) if quality else None
        figures = [f"{found['sqnr_db']:.1f} dB", f"{found['cosine']:.5f}"] if found else ["", ""]
        rows.append([name, stage["weights"], stage["activations"], *counts, *figures])
    if source["file"] == NO_DATA:
        facts = [["recipe", data["recipe"]], ["scales from", "the weights themselves, no data"]]
    else:
        seen = f"{source['requests']} requests of {source['file']}, {source['skipped']} skipped"
        facts = [["recipe", f"{data['recipe']}; ranges by {data['method']}"], ["scales from", seen]]
    if quality is None:
        facts.append(["quality", "not measured"])
    else:
        facts += [
            [f"tokens of {name}", f"{segment['agreement']:.2%} of {segment['tokens']} equal, KL {segment['kl']:.5f}"]
            for name, segment in quality["segments"].items()
        ]
        if "pictures" in quality:
            pictures = "PSNR {psnr_db:.1f} dB, SSIM {ssim:.4f}, of {pictures} pictures".format(**quality["pictures"])
            facts.append(["pictures", pictures])
        facts.append(["size to float", f"{quality['bytes'] / quality['float_bytes']:.3f}x"])
        facts.append(["under the bar", ", ".join(quality["failed"]) or "nothing"])
    return f"{table(header, rows)}\n\n{table(['quantization', ''], facts, left=2)}"

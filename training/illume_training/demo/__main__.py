"""`python -m illume_training.demo`: from a checkpoint to a page of results."""

from __future__ import annotations

import argparse
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from illume_runtime.cli.main import main as illume
from illume_runtime.cli.progress import ProgressBar
from illume_runtime.files import atomic_write


def main() -> int:
    """Export, use the bundle in every way, measure, write the page; the exit code of the first step that fails."""
    parser = argparse.ArgumentParser(prog="python -m illume_training.demo", description=__doc__)
    parser.add_argument("--checkpoint", default="assets/illume-tiny", help="folder with config.json and safetensors")
    parser.add_argument("--bundle", default="build/illume-tiny.bundle", help="where the bundle goes")
    parser.add_argument("--output", default="build/demo", help="folder of the page and its pictures")
    args = parser.parse_args()
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    Path(args.bundle).parent.mkdir(parents=True, exist_ok=True)

    print(f"1/3  exporting {args.checkpoint} to {args.bundle}", flush=True)
    code = illume(["export", args.checkpoint, "-o", args.bundle])
    if code:
        return code
    print("2/3  describing, drawing, editing and reconstructing", flush=True)
    from illume_runtime.pipeline import Pipeline
    from illume_training.demo.page import page_html
    from illume_training.demo.results import collect
    from illume_training.demo.sheet import sheet_image

    with ProgressBar() as bar:
        results = collect(Pipeline.load(args.bundle), folder, bar.update)
    with atomic_write(folder / "sheet.png") as temporary:
        sheet_image(results, folder).save(temporary, "PNG", optimize=True)
    for drawn in results.drawn:
        print(f"     {drawn.prompt!r} -> {', '.join(drawn.files)}")
    for answer in results.shown[0].answers:
        print(f"     {answer.question!r} -> {answer.answer!r}")
    print("3/3  measuring every stage", flush=True)
    output = io.StringIO()
    with redirect_stdout(output):
        code = illume(["profile", args.bundle, "--trace", str(folder / "trace.json"), "--json"])
    if code:
        return code
    page = folder / "index.html"
    with atomic_write(page) as temporary:
        temporary.write_text(page_html(results, json.loads(output.getvalue())), encoding="utf-8")
    print(f"done: open {page} (the same as one picture: {folder / 'sheet.png'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

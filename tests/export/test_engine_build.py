"""`illume build` from plan to record, each engine in a process of its own, with a builder that builds nothing.

It stands in for `--target tensorrt`, whose real builder needs a GPU; the real one for RTX is in test_engines.py.
"""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fake_gpu import FakeDevice
from illume_export.engines import builder
from illume_export.engines.build_progress import BuildProgress
from illume_export.engines.builder import Options, build_engine, engine_plan
from illume_export.engines.profiles import Wanted
from illume_runtime import memory
from illume_runtime.bundle import Bundle
from illume_runtime.cli import progress
from illume_runtime.cli.main import main
from illume_runtime.device import driver, opening
from illume_runtime.engine_record import checked_record, gpu_of
from illume_runtime.errors import EngineError, ExportError, UnavailableError, UsageError

FAKES = Path(__file__).parent / "fake_builder"
ORIN = Options("tensorrt", "8.7")
HERE = ("--target", "tensorrt", "--stages", "head_text")
RTX = ("--target", "tensorrt-rtx", "--compute-capability", "8.6")


@pytest.fixture(autouse=True)
def fake_builder(monkeypatch):
    """Both modules are the fake, here and in the processes that are started."""
    path = os.pathsep.join(filter(None, (str(FAKES), *sys.path)))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(FAKES))
    real = {name: sys.modules.pop(name) for name in ("tensorrt", "tensorrt_rtx") if name in sys.modules}
    yield
    for name in ("tensorrt", "tensorrt_rtx"):
        sys.modules.pop(name, None)
    sys.modules.update(real)


@pytest.fixture
def board(monkeypatch):
    """A function: from then on the GPU here is one of that name, and is given back."""

    def put(name, num_processors, memory_bytes=1 << 30):
        device = FakeDevice((8, 7), memory_bytes)
        device.name, device.gpu = name, dataclasses.replace(device.gpu, num_processors=num_processors)
        monkeypatch.setattr(opening, "open_device", lambda: device)
        return device

    return put


def planned_of(bundle, folder, stage, options=ORIN):
    (planned,) = engine_plan(Bundle.open(bundle), folder, options, [stage])
    return planned


def command(bundle, folder, *words):
    return [sys.executable, "-m", "illume_runtime", "build", str(bundle), *RTX, "-o", str(folder), *words]


def wait_for(what):
    deadline = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_the_builder_is_asked_for_what_the_plan_says(bundle, tmp_path):
    options = Options("tensorrt", "8.7", Wanted(batch=3), workspace_bytes=1 << 20)
    planned = planned_of(bundle, tmp_path, "decoder", options)
    record = build_engine(planned, options)
    asked = json.loads(planned.path.read_text())
    assert asked == {"profiles": planned.profiles, "limits": {"workspace": 1 << 20}, "capabilities": {}, "timings": ""}
    assert [profile["positions"] for profile in planned.profiles] == [
        [[1, 1], [2, 64], [6, 160]],
        [[1, 1], [2, 1], [6, 4]],
    ]
    assert (record.precision, record.caches, record.attentions, record.fused) == ("float16", 4, 2, 1)
    assert (record.activation_bytes, record.weight_bytes) == ((4096, 4096), 512)
    assert record.profiles[1]["positions"] == ((1, 1), (2, 1), (6, 4))
    assert [(layer.dtype, layer.weights) for layer in record.layers] == [("Half", "Int8")]
    read = checked_record(planned.path, target="tensorrt", builder="11.4.0", gpu="8.7", onnx_sha256=planned.onnx_sha256)
    assert read == record


def test_timings_are_kept_for_the_next_build_and_foreign_ones_are_not_used(bundle, tmp_path):
    planned = planned_of(bundle, tmp_path, "head_text")
    cache = tmp_path / "timings-11.4.0-8.7.cache"
    for before, used in ((None, ""), (None, "fake timings"), (b"of another builder", ""), (b"corrupt", "")):
        if before is not None:
            cache.write_bytes(before)
        build_engine(planned, ORIN)
        assert json.loads(planned.path.read_text())["timings"] == used
        assert cache.read_bytes() == b"fake timings"


def test_progress_is_told_in_percent(bundle, tmp_path):
    told = []
    build_engine(planned_of(bundle, tmp_path, "head_text"), ORIN, lambda *words: told.append(words))
    assert told == [("head_text", percent, 100) for percent in (25, 50, 100)]


def test_progress_counts_phases_within_phases_and_never_falls():
    progress = BuildProgress()
    progress.start("all", None, 4)
    progress.start("first", "all", 10)
    assert progress.step("first", 5) == 12
    progress.start("inner", "first", 2)
    assert progress.step("inner", 1) == 13
    progress.finish("inner")
    progress.finish("first")
    assert progress.step("all", 1) == 25
    progress.start("all", None, 8)  # anew: less is done of it than was said already
    assert progress.step("all", 1) == 25
    assert progress.step("unknown", 1) == 25
    assert progress.step("all", 8) == 100


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("refuse", r"head_text: TensorRT cannot build it: layers\.0 \(Attention\): no kernel"),
        ("none", r"head_text: TensorRT cannot build it: no implementation for node layers\.0"),
        ("unused", "head_text: .*the parser drops an input, and results would be wrong: Unused Input: lengths"),
        ("kill", "head_text: the builder's process was ended by SIGKILL, without an engine"),
    ],
)
def test_a_failure_names_stage_layer_and_reason_and_leaves_nothing(bundle, tmp_path, monkeypatch, wrong, message):
    monkeypatch.setenv("FAKE_TENSORRT", wrong)
    with pytest.raises(ExportError, match=message):
        build_engine(planned_of(bundle, tmp_path, "head_text"), ORIN)
    assert [path.name for path in tmp_path.iterdir()] == [".head_text.engine.lock"]


def test_a_cache_that_would_be_copied_is_refused(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TENSORRT", "copy")
    with pytest.raises(ExportError, match=r"decoder: .*0 of 4 caches would be updated in place, expected all"):
        build_engine(planned_of(bundle, tmp_path, "decoder"), ORIN)


def test_a_killed_build_takes_its_builder_along_and_leaves_no_engine(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TENSORRT", f"wait={tmp_path / 'never'}")
    folder = tmp_path / "engines"
    build = subprocess.Popen(command(bundle, folder, "--stages", "head_text"), stderr=subprocess.DEVNULL)
    graph = folder / ".head_text.engine.build" / "graph.onnx"
    wait_for(graph.exists)
    (child,) = wait_for(lambda: Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split())
    build.send_signal(signal.SIGKILL)
    build.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "\nState:\tZ" in Path(f"/proc/{child}/status").read_text())
    assert not (folder / "head_text.engine").exists()
    monkeypatch.delenv("FAKE_TENSORRT")
    assert main(["build", str(bundle), *RTX, "-o", str(folder), "--stages", "head_text"]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".head_text.engine.lock", "head_text.engine", "head_text.engine.json"]


def test_of_two_processes_one_builds_and_the_other_says_so(bundle, tmp_path, monkeypatch, capsys):
    done, folder = tmp_path / "done", tmp_path / "engines"
    monkeypatch.setenv("FAKE_TENSORRT", f"wait={done}")
    build = subprocess.Popen(command(bundle, folder, "--stages", "head_text"), stdout=subprocess.PIPE, text=True)
    wait_for((folder / ".head_text.engine.build").exists)
    monkeypatch.delenv("FAKE_TENSORRT")
    words = ["build", str(bundle), *RTX, "-o", str(folder), "--stages", "head_text,head_level0"]
    assert main(words) == 8
    assert "1 of 2 engines failed, the others are kept: " in (error := capsys.readouterr().err)
    assert "head_text.engine: another process builds it now; wait until it is done" in error
    done.touch()
    assert "1 engines for 8.6" in build.communicate()[0]
    assert main(words) == 0
    assert "2 engines for 8.6, 0.0 s" in capsys.readouterr().out


def test_the_memory_to_build_is_asked_for_before(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 1000)
    assert main(["build", str(bundle), *RTX, "-o", str(tmp_path / "engines"), "--stages", "head_text"]) == 7
    assert "head_text: its build takes 400 MB of memory, but 0 MB are left; build on" in capsys.readouterr().err


def test_an_engine_is_for_the_gpu_that_it_was_tuned_on(bundle, tmp_path, board, capsys):
    """Of one compute capability there are boards that differ in size."""
    agx, nano = board("Orin AGX/64", 16), board("Orin Nano", 8)
    words = ["build", str(bundle), *HERE, "-o", str(tmp_path), "--json"]
    for device, cached in ((agx, False), (agx, True), (nano, False), (nano, True), (agx, False)):
        board(device.name, device.gpu.num_processors)
        assert main(words) == 0
        assert [it["cached"] for it in json.loads(capsys.readouterr().out)["engines"]] == [cached]
    digest = planned_of(bundle, tmp_path, "head_text").onnx_sha256
    known = {"target": "tensorrt", "builder": "11.4.0", "onnx_sha256": digest}
    path = tmp_path / "head_text.engine"
    assert checked_record(path, gpu=gpu_of(agx), **known).gpu == "8.7 (Orin AGX/64, 16 multiprocessors)"
    message = r"for GPU 8\.7 \(Orin AGX/64, 16 multiprocessors\), expected 8\.7 \(Orin Nano, 8 multiprocessors\); run: "
    with pytest.raises(EngineError, match=message):
        checked_record(path, gpu=gpu_of(nano), **known)
    names = sorted(path.name for path in tmp_path.glob("timings*"))
    ends = ("8.7-Orin-AGX-64-16-multiprocessors", "8.7-Orin-Nano-8-multiprocessors")
    assert names == [f"timings-11.4.0-{end}.cache" for end in ends]


def test_an_engine_of_tensorrt_for_rtx_is_for_every_gpu_of_its_compute_capability(bundle, tmp_path, board, capsys):
    words = ["build", str(bundle), *RTX, "-o", str(tmp_path), "--stages", "head_text", "--json"]
    for name, cached in (("RTX A2000", False), ("RTX A6000", True)):
        board(name, 26)
        assert main(words) == 0
        assert [it["cached"] for it in json.loads(capsys.readouterr().out)["engines"]] == [cached]
    assert json.loads((tmp_path / "head_text.engine.json").read_text())["gpu"] == "8.6"


def test_the_memory_of_the_gpu_is_asked_for_before(bundle, tmp_path, board, capsys):
    weights = Bundle.open(bundle).stage("head_text").weight_bytes // 2  # float32 becomes float16
    for limit in ((), ("--memory-limit", "8")):
        needed = weights + (8 << 20 if limit else 0)
        words = ["build", str(bundle), *HERE, *limit, "-o", str(tmp_path), "--json"]
        board("Orin Nano", 8, needed - 1)
        assert main(words) == 7
        message = json.loads(capsys.readouterr().out)["error"]["message"]
        assert f"head_text: its build takes {needed / 1e6:.0f} MB of the GPU's memory at least, but" in message
        assert ("smaller --memory-limit" in message) == bool(limit)
        assert not list(tmp_path.iterdir())
        board("Orin Nano", 8, needed)
        assert main([*words, "--plan"]) == 0
        assert [it["device_bytes"] for it in json.loads(capsys.readouterr().out)["engines"]] == [needed]
    assert main(words) == 0
    assert (tmp_path / "head_text.engine").exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line_that_a_user_sees_has_stage_percent_and_time_left(bundle, tmp_path, monkeypatch):
    """The fake builder says 25, 50 and 100 percent; each look at the clock is 3 seconds later."""
    terminal, clock = Terminal(), iter(range(0, 1000, 3))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["build", str(bundle), *RTX, "-o", str(tmp_path), "--stages", "head_text,head_level0"]) == 0
    shown = terminal.getvalue().split(progress.CLEAR_LINE)[1:]
    bar = {percent: "█" * (28 * percent // 100) + "░" * (28 - 28 * percent // 100) for percent in (25, 50, 100)}
    for stage, drawn in (("head_text 1/2", shown[:4]), ("head_level0 2/2", shown[4:])):
        assert drawn[:3] == [
            f"{stage:<12} {bar[25]} 25/100",
            f"{stage:<12} {bar[50]} 50/100  6.0 s left",
            f"{stage:<12} {bar[100]} 100/100  0.0 s left",
        ]
        assert drawn[3].startswith(stage.split()[0])  # what the engine is, on a line of its own
        assert drawn[3].endswith("1 layers, works in 0.0 MB\n")


def test_where_there_is_no_terminal_there_is_no_bar(bundle, tmp_path, capsys):
    assert main(["build", str(bundle), *RTX, "-o", str(tmp_path), "--stages", "head_text"]) == 0
    assert "/100" not in capsys.readouterr().err


def test_a_plan_says_what_would_be_built(bundle, tmp_path, capsys):
    words = ["build", str(bundle), *RTX, "-o", str(tmp_path / "engines"), "--batch", "2", "--json"]
    assert main([*words, "--stages", "decoder"]) == 0
    capsys.readouterr()
    assert main([*words, "--plan"]) == 0
    engines = {it["stage"]: it for it in json.loads(capsys.readouterr().out)["engines"]}
    assert {name: it["cached"] for name, it in engines.items()} == {name: name == "decoder" for name in engines}
    assert engines["decoder"]["precision"] == "float16"
    assert engines["decoder"]["profiles"][0]["positions"][2] == [4, 160]
    assert engines["vae_decoder"]["profiles"][0]["latents"][2][0] == 2
    assert engines["head_text"]["host_bytes"] > 4e8
    assert not (tmp_path / "engines" / "head_text.engine").exists()


def test_another_batch_is_another_engine(bundle, tmp_path):
    planned = planned_of(bundle, tmp_path, "head_text")
    build_engine(planned, ORIN)
    assert planned_of(bundle, tmp_path, "head_text").cached
    assert not planned_of(bundle, tmp_path, "head_text", Options("tensorrt", "8.7", Wanted(batch=5))).cached


def test_an_unknown_resolution_is_refused(bundle, tmp_path):
    with pytest.raises(UsageError, match="--resolutions: illume-small draws no '8x8'; it draws 96x96"):
        planned_of(bundle, tmp_path, "vae_decoder", Options("tensorrt", "8.7", Wanted(resolutions=("8x8",))))


def test_bfloat16_is_not_built_for_a_gpu_without_it(changed_bundle, tmp_path):
    half = changed_bundle({"precision": "bfloat16"})
    assert planned_of(half, tmp_path, "head_text", Options("tensorrt-rtx", "8.0")).precision == "bfloat16"
    with pytest.raises(UsageError, match=r"is bfloat16, which a GPU of compute capability 7\.5 does not have"):
        planned_of(half, tmp_path, "head_text", Options("tensorrt-rtx", "7.5,8.0"))


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("package", ["onnx", "builder"])
def test_a_missing_package_is_named_with_the_extra_of_its_target(monkeypatch, target, package):
    monkeypatch.setitem(sys.modules, "onnx" if package == "onnx" else builder.MODULES[target], None)
    name = "onnx" if package == "onnx" else builder.MODULES[target]
    message = rf"target {target}: the package {name} is not installed; .*pip install 'illume-rt\[{target}\]'"
    with pytest.raises(UnavailableError, match=message):
        builder.builder_version(target)


def test_on_a_jetson_tensorrt_comes_with_jetpack(monkeypatch, tmp_path):
    monkeypatch.setattr(builder, "TEGRA", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UnavailableError, match=r"comes with JetPack .*apt install python3-libnvinfer"):
        builder.builder_version("tensorrt")


def test_an_old_builder_is_refused_with_both_versions(monkeypatch):
    import tensorrt

    monkeypatch.setattr(tensorrt, "__version__", "10.3.0")
    with pytest.raises(UnavailableError, match=r"tensorrt is 10\.3\.0, and 10\.15 or later is needed"):
        builder.builder_version("tensorrt")


@pytest.mark.parametrize("plan", [(), ("--plan",)])
def test_tensorrt_without_a_gpu_is_one_line(bundle, monkeypatch, capsys, plan):
    monkeypatch.setattr(driver, "LIBRARY", "libnodriver.so.1")
    assert main(["build", str(bundle), "--target", "tensorrt", *plan]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "no NVIDIA driver: libnodriver.so.1 is not here; install the driver of your GPU" in line

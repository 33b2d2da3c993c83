"""`illume build` without a builder, and what makes an engine one that may be loaded."""

import dataclasses
import fcntl
import json
from pathlib import Path

import pytest

from bundle_folder import write_bundle
from illume_export.engines import builder
from illume_export.engines.builder import Options, build_engine, engine_plan
from illume_export.engines.profiles import Wanted, profiles_from_stage
from illume_runtime.bundle import Bundle
from illume_runtime.cli.main import main
from illume_runtime.device import driver
from illume_runtime.engine_record import EngineRecord, checked_record, write_record
from illume_runtime.errors import EngineError, ExportError, UnavailableError
from illume_runtime.files import sha256_of

RTX = Options("tensorrt-rtx", "8.6")
HERE = {"target": "tensorrt-rtx", "builder": "1.7", "gpu": "8.6", "onnx_sha256": "abc"}


def add_decoder(data):
    ports = [{"name": "positions", "dtype": "int64", "shape": ["B", "T"]}]
    data["stages"]["decoder"] = data["stages"]["head_level0"] | {"inputs": ports}


@pytest.fixture
def bundle(tmp_path):
    """Of two stages, `head_level0` and `decoder`, whose graphs nobody can build."""
    return write_bundle(tmp_path / "small.bundle", change=add_decoder)


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "decoder.engine"
    path.write_bytes(b"native code")
    record = EngineRecord("decoder", key="k", engine_sha256=sha256_of(path), layers=(), **HERE)
    write_record(path, record)
    return path


def test_an_engine_with_our_record_is_accepted(engine):
    assert checked_record(engine, **HERE).stage == "decoder"


@pytest.mark.parametrize("what", HERE)
def test_an_engine_from_elsewhere_says_what_to_run(engine, what):
    with pytest.raises(EngineError, match=r"was built for .*, expected other; run: illume build"):
        checked_record(engine, **(HERE | {what: "other"}))


def test_a_changed_byte_is_refused(engine):
    engine.write_bytes(b"native cude")
    with pytest.raises(EngineError, match="its bytes are not those that were built"):
        checked_record(engine, **HERE)


def test_an_engine_without_record_is_refused(engine):
    engine.with_name("decoder.engine.json").unlink()
    with pytest.raises(EngineError, match="no engine with our record"):
        checked_record(engine, **HERE)


@pytest.fixture
def planned(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "builder_version", lambda target: "1.7")
    (found,) = engine_plan(Bundle.open(bundle), tmp_path / "engines", RTX, ["head_level0"])
    return found


def test_two_processes_do_not_build_one_engine(planned):
    planned.path.parent.mkdir()
    with planned.path.with_name(f".{planned.path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EngineError, match="another process builds it now"):
            build_engine(planned, RTX)


def test_a_builder_that_dies_leaves_nothing(planned):
    broken = dataclasses.replace(planned, onnx=planned.path.with_name("missing.onnx"))
    with pytest.raises(
        ExportError,
        match=r"head_level0: the builder's process ended with 1, without an engine: FileNotFoundError: .*missing\.onnx",
    ):
        build_engine(broken, RTX)
    assert [path.name for path in planned.path.parent.iterdir()] == [".head_level0.engine.lock"]


def test_the_decoder_has_a_profile_for_prefill_and_one_for_decode(bundle):
    opened = Bundle.open(bundle)
    prefill, decode = profiles_from_stage(opened, opened.stage("decoder"), Wanted())
    assert [shape[1] for shape in decode["positions"]] == [1, 1, 4]
    assert prefill["positions"][2][1] == opened.model.max_context


def test_what_fails_is_named_what_succeeds_is_kept(bundle, capsys, monkeypatch):
    jobs = []

    def run_worker(stage, job, on_progress):
        jobs.append(stage)
        if stage == "decoder" and jobs.count(stage) == 1:
            raise ExportError("decoder: TensorRT cannot build it: no kernel")
        Path(job["engine"]).write_bytes(stage.encode())
        return {
            "layers": [["product", "gemm", "Half", ""]],
            "attentions": 0,
            "fused": 0,
            "caches": 0,
            "activation_bytes": [1],
            "weight_bytes": 1,
        }

    monkeypatch.setattr(builder, "builder_version", lambda target: "1.7")
    monkeypatch.setattr(builder, "_run_worker", run_worker)
    words = ["build", str(bundle), "--target", "tensorrt-rtx", "--compute-capability", "8.6", "--json"]
    assert main(words) == 5
    message = json.loads(capsys.readouterr().out)["error"]["message"]
    assert message.startswith("1 of 2 engines failed, the others are kept: decoder: TensorRT cannot build it: no ker")
    assert main(words) == 0
    cached = {it["stage"]: it["cached"] for it in json.loads(capsys.readouterr().out)["engines"]}
    assert cached == {"head_level0": True, "decoder": False}
    assert sorted(jobs) == ["decoder", "decoder", "head_level0"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--target", "tensorrt-rtx", "--compute-capability", "9.0"), 2, "TensorRT for RTX has no '9.0'"),
        (("--target", "tensorrt", "--compute-capability", "8.7"), 2, "is for --target tensorrt-rtx"),
        (("--target", "tensorrt-rtx", "-o", "{bundle}/engines"), 2, "is inside the bundle"),
    ],
)
def test_wrong_options_are_one_line(bundle, capsys, words, code, message):
    assert main(["build", str(bundle), *(word.format(bundle=bundle) for word in words)]) == code
    assert message in capsys.readouterr().err


def test_no_driver_is_one_line(monkeypatch):
    monkeypatch.setattr(driver, "LIBRARY", "libnodriver.so.1")
    with pytest.raises(UnavailableError, match="no NVIDIA driver"):
        driver.compute_capability()


class FakeDriver:
    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = {driver.MAJOR: 8, driver.MINOR: 7}[attribute]
        return 0 if device == 0 else 101

    def cuInit(self, flags):  # noqa: N802
        return 0


def test_the_driver_tells_the_compute_capability(monkeypatch):
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: FakeDriver())
    assert driver.compute_capability() == "8.7"
    with pytest.raises(UnavailableError, match="GPU 1: its compute capability cannot be read"):
        driver.compute_capability(1)

"""The prebuilt binaries belong to the source, spill nothing and leave every rounding where the definition has it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from illume_kernels.build import ARCHITECTURES, PREBUILT, build_fatbin, main, nvcc_path, resources_from_log
from illume_kernels.nvrtc import cubin_from_source
from illume_kernels.source import source_files, source_hash


@pytest.fixture(scope="module")
def manifest():
    return json.loads((PREBUILT / "manifest.json").read_text())


def test_the_binaries_belong_to_the_source(manifest):
    assert manifest["source_sha256"] == source_hash(), "run `make kernels`"
    assert {path.name for path in PREBUILT.iterdir()} == {*manifest["files"], "manifest.json"}
    for name, num_bytes in manifest["files"].items():
        assert (PREBUILT / name).stat().st_size == num_bytes
    assert sum(manifest["files"].values()) < 2_000_000


def test_no_architecture_spills_or_uses_local_memory(manifest):
    assert set(manifest["kernels"]) == {f"sm_{a}" for a in ARCHITECTURES}
    for architecture, kernels in manifest["kernels"].items():
        assert ("sample_cluster" in kernels) == (int(architecture[3:]) >= 90)
        for name, used in kernels.items():
            assert used["spill_bytes"] == used["stack_bytes"] == 0, (architecture, name)


def test_what_ptxas_says_is_read():
    log = (
        "ptxas info    : Compiling entry function 'a' for 'sm_90'\nptxas info    : Function properties for a\n"
        "    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\nptxas info    : Used 64 registers"
    )
    assert resources_from_log(log) == {"sm_90": {"a": {"stack_bytes": 16, "spill_bytes": 20, "registers": 64}}}


def test_without_nvcc_the_build_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("illume_kernels.build.nvcc_path", lambda: None)
    assert main(["-o", str(tmp_path)]) == 3
    assert "nvidia-cuda-nvcc" in capsys.readouterr().err


def test_without_nvrtc_the_compilation_says_what_to_install(tmp_path):
    with pytest.raises(RuntimeError, match="install nvidia-cuda-nvrtc"):
        cubin_from_source((8, 7), tmp_path / "libnvrtc.so")


@pytest.mark.slow
@pytest.mark.skipif(nvcc_path() is None, reason="no nvcc on the PATH nor from the wheel nvidia-cuda-nvcc")
def test_every_architecture_compiles_without_spills(tmp_path):
    resources = build_fatbin(nvcc_path(), tmp_path / "kernels.fatbin")
    assert set(resources) == {f"sm_{a}" for a in ARCHITECTURES}
    assert not any(used["spill_bytes"] for kernels in resources.values() for used in kernels.values())


@pytest.fixture
def machine_code():
    """A function: the listing of a binary. Skipped without nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm."""
    installed = (p for entry in sys.path if entry for p in sorted(Path(entry).glob("nvidia/*/bin/cuobjdump")))
    tool = shutil.which("cuobjdump") or next((str(p) for p in installed), None)
    if tool is None:
        pytest.skip("no cuobjdump on the PATH nor from the wheel nvidia-cuda-cuobjdump (with nvidia-cuda-nvdisasm)")
    path = os.pathsep.join((str(Path(tool).parent), os.environ["PATH"]))  # where it finds nvdisasm

    def listing(binary, architecture):
        command = [tool, "-sass", "-arch", architecture, binary]
        environment = {**os.environ, "PATH": path}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    return listing


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_machine_code_that_ships_loads_wide_and_uses_no_local_memory(machine_code, architecture, manifest):
    listing = machine_code(PREBUILT / "kernels.fatbin", architecture)
    functions = dict(re.findall(r"Function : (\w+)\n(.*?)(?=Function :|\Z)", listing, re.S))
    assert functions.keys() == manifest["kernels"][architecture].keys()
    for name, code in functions.items():
        assert "EXIT" in code, name
        assert not re.search(r" (LDL|STL)\b", code), name
        if name not in ("advance_step", "guidance_step"):
            assert "LDG.E.128" in code, name


@pytest.mark.slow
@pytest.mark.skipif(nvcc_path() is None, reason="no nvcc on the PATH nor from the wheel nvidia-cuda-nvcc")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_machine_code_holds_no_contracted_multiply_add(machine_code, architecture, tmp_path):
    """Divisions are made of multiply-adds and rounded correctly all the same, so they are taken out first."""
    for name, text in source_files().items():
        (tmp_path / name).write_text(text.replace("__fdiv_rn", "__fmul_rn"))
    cubin = tmp_path / "kernels.cubin"
    command = [nvcc_path(), "-std=c++17", f"-arch={architecture}", "-cubin", "-o", cubin, tmp_path / "kernels.cu"]
    subprocess.run(command, check=True)
    listing = machine_code(cubin, architecture)
    assert " FMUL" in listing
    assert " FADD" in listing
    # the division of doubles for the probability tests its range with 0 x + y
    contracted = [line for line in listing.splitlines() if " FFMA" in line and " RZ, " not in line]
    assert not contracted

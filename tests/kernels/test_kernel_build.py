"""The prebuilt binaries belong to the source, spill nothing and leave every rounding where the definition has it."""

import json
import shutil
import subprocess

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


@pytest.mark.slow
@pytest.mark.skipif(nvcc_path() is None, reason="no nvcc on the PATH nor from the wheel nvidia-cuda-nvcc")
@pytest.mark.skipif(shutil.which("cuobjdump") is None, reason="cuobjdump is not on the PATH (nvidia-cuda-cuobjdump)")
def test_machine_code_holds_no_contracted_multiply_add_and_no_local_memory(tmp_path):
    """Divisions are made of multiply-adds and rounded correctly all the same, so they are taken out first."""
    for name, text in source_files().items():
        (tmp_path / name).write_text(text.replace("__fdiv_rn", "__fmul_rn"))
    cubin = tmp_path / "kernels.cubin"
    subprocess.run(
        [nvcc_path(), "-std=c++17", "-arch=sm_90", "-cubin", "-o", cubin, tmp_path / "kernels.cu"], check=True
    )
    listing = subprocess.run(["cuobjdump", "-sass", cubin], capture_output=True, text=True, check=True).stdout
    # the division of doubles for the probability tests its range with 0 x + y
    contracted = [line for line in listing.splitlines() if " FFMA" in line and " RZ, " not in line]
    assert not contracted
    assert "LDG.E.128" in listing
    assert "LDL" not in listing
    assert "STL" not in listing

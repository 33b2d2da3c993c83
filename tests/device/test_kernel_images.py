"""Which machine code of the kernels is taken, and what is said where none fits."""

import pytest

from illume_kernels.build import PREBUILT
from illume_runtime.device import images
from illume_runtime.errors import UnavailableError


@pytest.fixture
def driver_of(monkeypatch):
    def set_version(*version):
        monkeypatch.setattr(images, "driver_version", lambda: version)

    return set_version


@pytest.mark.parametrize("capability", [(7, 5), (8, 7), (9, 0), (12, 1), (13, 0)])
def test_a_driver_of_cuda_13_takes_the_fatbin(driver_of, capability):
    driver_of(13, 0)
    assert images.kernel_image(capability) == (PREBUILT / "kernels.fatbin").read_bytes()


def test_jetpack_6_has_its_own(driver_of):
    driver_of(12, 6)
    assert images.kernel_image((8, 7)) == (PREBUILT / "jetpack6_sm_87.cubin").read_bytes()


@pytest.mark.parametrize(("version", "capability"), [((12, 4), (9, 0)), ((12, 2), (8, 7))])
def test_a_driver_that_is_too_old_is_named_with_the_one_needed(driver_of, monkeypatch, version, capability):
    def refused(*_):
        raise RuntimeError("NVRTC: not here")

    driver_of(*version)
    monkeypatch.setattr(images, "cubin_from_source", refused)
    with pytest.raises(UnavailableError, match=rf"of CUDA 12\.{version[1]}, the kernels were built for CUDA 13\.0; up"):
        images.kernel_image(capability)


def test_an_old_driver_with_its_own_compiler_is_served(driver_of, monkeypatch):
    driver_of(12, 4)
    monkeypatch.setattr(images, "cubin_from_source", lambda capability: b"\x7fELF of %d.%d" % capability)
    assert images.kernel_image((9, 0)) == b"\x7fELF of 9.0"


def test_a_gpu_before_turing_is_refused(driver_of):
    driver_of(13, 0)
    with pytest.raises(UnavailableError, match=r"capability 7\.2, expected 7\.5 or later; use --device cpu"):
        images.kernel_image((7, 2))

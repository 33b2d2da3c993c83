"""Device arrays at the border: DLPack and `__cuda_array_interface__`, both ways, without a copy."""

import gc
import types
import weakref

import numpy as np
import pytest

from illume_runtime.device import dlpack
from illume_runtime.device.array import DeviceArray
from illume_runtime.device.array import array_of as array_on_device

HOST = (dlpack.CPU, 0)  # numpy takes what lies on the host


class Owner:
    """Memory that knows whether it lives."""

    def __init__(self, values):
        self.values = values


def array_of(values):
    return array_on_device(values, [dlpack.CPU])


def ours(values):
    owner = Owner(values)
    return DeviceArray(values.ctypes.data, values.shape, values.dtype, owner, HOST)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "int32", "bool"])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 2, 3)])
def test_another_library_takes_an_array_as_it_is(shape, dtype):
    values = (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype)
    taken = np.from_dlpack(ours(values))
    np.testing.assert_array_equal(taken, values)
    assert (taken.dtype, taken.ctypes.data) == (values.dtype, values.ctypes.data)


def test_the_memory_lives_as_long_as_its_taker():
    array = ours(np.arange(5.0))
    alive = weakref.ref(array.owner)
    taken = np.from_dlpack(array)
    del array
    gc.collect()
    assert alive() is not None
    assert taken.tolist() == [0, 1, 2, 3, 4]
    del taken
    gc.collect()
    assert alive() is None
    assert not dlpack._lent


def test_a_capsule_that_nobody_takes_gives_its_memory_back():
    array = ours(np.arange(5.0))
    alive = weakref.ref(array.owner)
    capsule = array.__dlpack__()
    del array
    assert alive() is not None
    del capsule
    gc.collect()
    assert alive() is None


def test_an_array_of_another_library_is_taken_as_it_is():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    taken = array_of(values)
    assert (taken.address, taken.shape, taken.dtype, taken.device) == (values.ctypes.data, (3, 4), values.dtype, HOST)
    assert taken.nbytes == 48
    assert array_of(values[1:]).address == values.ctypes.data + 16


def test_the_cuda_array_interface_both_ways():
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    other = types.SimpleNamespace(__cuda_array_interface__=ours(values).__cuda_array_interface__)
    taken = array_of(other)
    assert (taken.address, taken.shape, taken.dtype) == (values.ctypes.data, (2, 3), values.dtype)
    assert taken.owner is other


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.zeros((4, 4), np.float32)[:, ::2], "with gaps, expected a contiguous one; copy it first"),
        (np.zeros(3, np.complex64), "type code 5 of 64 bits, expected a number"),
        (
            types.SimpleNamespace(
                __cuda_array_interface__={"shape": (2,), "typestr": "<f4", "data": (256, False), "strides": (8,)}
            ),
            "with strides, expected a contiguous one",
        ),
        ([1, 2], "got list, expected __cuda_array_interface__ or __dlpack__"),
    ],
    ids=["gaps", "complex", "strides", "list"],
)
def test_what_cannot_be_taken_is_refused(other, message):
    with pytest.raises(TypeError, match=message):
        array_of(other)


def test_memory_of_the_host_is_refused():
    with pytest.raises(TypeError, match="got ndarray in memory of the host, expected one on the GPU; move it"):
        array_on_device(np.zeros(3, np.float32))


def test_bfloat16_is_two_bytes_without_a_type():
    torch = pytest.importorskip("torch")
    values = torch.zeros((2, 3), dtype=torch.bfloat16)
    taken = array_of(values)
    assert (taken.address, taken.shape, taken.dtype.itemsize) == (values.data_ptr(), (2, 3), 2)


def test_parts_and_other_shapes_of_an_array():
    array = ours(np.arange(24, dtype=np.float32).reshape(6, 4))
    part = array.rows(2, 5)
    assert (part.address, part.shape) == (array.address + 32, (3, 4))
    assert array.shaped(2, 3).nbytes == 24
    with pytest.raises(ValueError, match="got 5 to 7 of 6"):
        array.rows(5, 7)
    with pytest.raises(ValueError, match="expected no more elements"):
        array.shaped(5, 5)
    with pytest.raises(BufferError, match="expected a number"):
        DeviceArray(0, (1,), np.dtype("V2"), None, HOST).__dlpack__()

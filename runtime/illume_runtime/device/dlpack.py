"""DLPack capsules of device memory, both ways, through the C structures of its specification (version 0)."""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
BFLOAT16 = np.dtype("V2")  # numpy has none
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}
_BFLOAT = 4
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))
_CapsuleDestructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, _CapsuleDestructor)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)

_lent: dict[int, tuple[Any, ...]] = {}  # address of a structure -> what it needs, until its deleter is called


@_Deleter  # type: ignore[untyped-decorator]
def _give_back(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


@_CapsuleDestructor  # type: ignore[untyped-decorator]
def _unused(capsule: int) -> None:
    """Of a capsule that nobody took: one that was taken has another name, and its taker calls the deleter."""
    if _is_valid(capsule, _NAME):
        _lent.pop(_pointer(capsule, _NAME), None)


def capsule_of(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int], owner: object
) -> Any:
    """A capsule of contiguous memory; `owner` lives as long as its taker wants. BufferError for other dtypes."""
    if dtype.kind not in _KINDS:
        raise BufferError(f"dlpack: got {dtype}, expected a number or a boolean")
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed = _Managed()
    managed.tensor = _Tensor(
        address,
        *device,
        len(shape),
        _KINDS[dtype.kind],
        8 * dtype.itemsize,
        1,
        ctypes.cast(sizes, _shape_type),
        None,
        0,
    )
    managed.deleter = _give_back
    place = ctypes.addressof(managed)
    _lent[place] = (managed, sizes, owner)
    return _new(place, _NAME, _unused)


_shape_type = ctypes.POINTER(ctypes.c_int64)


def tensor_of(capsule: Any) -> tuple[int, tuple[int, ...], np.dtype[Any], tuple[int, int]]:
    """Address, shape, dtype and device of a capsule, which stays its owner's. TypeError for one with gaps."""
    place = _pointer(id(capsule), _NAME)
    tensor = ctypes.cast(place, ctypes.POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        expected = [prod(shape[i + 1 :]) for i in range(len(shape))]
        pairs = zip(tensor.strides[: tensor.ndim], expected, shape, strict=True)
        if any(stride != full for stride, full, size in pairs if size > 1):
            raise TypeError("dlpack: got an array with gaps, expected a contiguous one; copy it first")
    device = (tensor.device_type, tensor.device_id)
    if (tensor.code, tensor.bits, tensor.lanes) == (_BFLOAT, 16, 1):
        return tensor.data + tensor.byte_offset, shape, BFLOAT16, device
    kinds = {code: kind for kind, code in _KINDS.items()}
    if tensor.code not in kinds or tensor.lanes != 1:
        raise TypeError(f"dlpack: got type code {tensor.code} of {tensor.bits} bits, expected a number or a boolean")
    name = "bool" if tensor.code == _KINDS["b"] else f"{kinds[tensor.code]}{tensor.bits // 8}"
    return tensor.data + tensor.byte_offset, shape, np.dtype(name), device

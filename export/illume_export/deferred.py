"""A tensor that is not in memory: its shape is known, its values are read when something real is computed with them.

A model larger than the memory is made of these. Operations among deferred tensors alone are recorded and run when
the result is asked for, so that exact rewrites fold weights without reading them; an operation with a real tensor
reads the weights that it needs, in float32, and lets go of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

aten = torch.ops.aten
SAME = (aten.detach.default, aten.alias.default)
ROWS = aten.embedding.default
NUMBERS = (aten._local_scalar_dense.default, aten.equal.default)  # whose result is no tensor

Read = Callable[[], Tensor]
Digest = Callable[[], bytes]


class Deferred(Tensor):
    """A float32 tensor behind a function that reads it; `digest` tells its values apart without computing them."""

    _read: Read
    _digest: Digest

    @staticmethod
    def __new__(cls, shape: torch.Size | tuple[int, ...], dtype: torch.dtype, read: Read, digest: Digest) -> Deferred:
        """A tensor without storage."""
        new: Deferred = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        new._read, new._digest = read, digest
        return new

    def __init__(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype, read: Read, digest: Digest) -> None:
        super().__init__()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Deferred({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in SAME:
            return Deferred(args[0].shape, args[0].dtype, args[0]._read, args[0]._digest)
        if func is ROWS and isinstance(args[0], Deferred):
            return args[0]._read()[args[1]].to(args[0].dtype)
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func in NUMBERS or not all(isinstance(tensor, Deferred) for tensor in tensors):
            real_args, real_kwargs = pytree.tree_map_only(Deferred, values_of, (args, kwargs))
            return func(*real_args, **real_kwargs)
        return _recorded(func, args, kwargs)


def values_of(tensor: Tensor) -> Tensor:
    """The values, in the type that the tensor has for those who compute with it."""
    return tensor._read().to(tensor.dtype) if isinstance(tensor, Deferred) else tensor


def update_digest(digest: Any, name: str, tensor: Tensor) -> None:
    """Add a tensor's name, type, shape and values to a hash; of a deferred one, what its values follow from."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    if isinstance(tensor, Deferred):
        digest.update(tensor._digest())
    else:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


def _recorded(func: Any, args: Any, kwargs: Any) -> Any:
    """What `func` will give, each tensor of it deferred; nothing is computed but shapes."""

    def shape_of(tensor: Deferred) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    meta_args, meta_kwargs = pytree.tree_map_only(Deferred, shape_of, (args, kwargs))
    outputs, structure = pytree.tree_flatten(func(*meta_args, **meta_kwargs))

    def read(index: int) -> Tensor:
        real_args, real_kwargs = pytree.tree_map_only(Deferred, values_of, (args, kwargs))
        result: Tensor = pytree.tree_leaves(func(*real_args, **real_kwargs))[index]
        return result

    def digest(index: int) -> bytes:
        found = hashlib.sha256(f"{func} {index}".encode())
        for leaf in pytree.tree_leaves((args, kwargs)):
            found.update(leaf._digest() if isinstance(leaf, Deferred) else repr(leaf).encode())
        return found.digest()

    new = [
        Deferred(out.shape, out.dtype, lambda i=i: read(i), lambda i=i: digest(i))  # type: ignore[misc]
        for i, out in enumerate(outputs)
    ]
    return pytree.tree_unflatten(new, structure)

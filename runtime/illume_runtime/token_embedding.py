"""The embeddings of tokens, looked up on the host: a mapped table in float, or in int8 with a scale for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from illume_runtime.bundle import Bundle
from illume_runtime.manifest import EMBEDDING_SCALE_TABLE, EMBEDDING_TABLE


class TokenEmbedding:
    """Rows of `token_embedding` [V, D] as float32, whatever the type in which they are stored.

    An int8 row times its number in `token_embedding_scale` [V] is the embedding. Raises InvalidBundleError.
    """

    def __init__(self, bundle: Bundle) -> None:
        table = bundle.table(EMBEDDING_TABLE)
        self._table: Final = table.view(np.ndarray)  # a map's own class is slow to index
        self._scales: NDArray[np.float32] | None = None  # [V, 1]
        if table.dtype == np.int8:
            self._scales = np.asarray(bundle.table(EMBEDDING_SCALE_TABLE), np.float32).reshape(-1, 1)

    def stored(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
        """Rows [T, D] of ids [T] as they are stored, and the scales [T] of int8 ones."""
        return self._table[ids], None if self._scales is None else self._scales[ids, 0]

    def rows(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings [..., D] of ids [...], a copy."""
        index = np.asarray(ids, np.int64)
        rows: NDArray[np.float32] = self._table[index].astype(np.float32, copy=False)
        if self._scales is not None:
            rows *= self._scales[index]
        return rows

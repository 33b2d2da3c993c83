"""The table of token embeddings in int8 with a scale for each row, beside the stages of a quantized bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from illume_calibration.weights import int8_per_channel
from illume_runtime.bundle import Bundle
from illume_runtime.errors import UsageError
from illume_runtime.manifest import EMBEDDING_SCALE_TABLE, EMBEDDING_TABLE, TableSpec

BLOCK_ROWS: Final = 4096  # that are widened to float32 at a time


def write_int8_embedding(bundle: Bundle, folder: Path) -> dict[str, TableSpec]:
    """Write the rows [V, D] int8 and their scales [V] float32 into the folder; the entries of both.

    A row's largest magnitude becomes 127. Raises UsageError for rows that are not finite.
    """
    table = bundle.table(EMBEDDING_TABLE)
    rows, scales = np.empty(table.shape, np.int8), np.empty(len(table), np.float32)
    for start in range(0, len(table), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        block = np.asarray(table[part], np.float32)
        if not np.isfinite(block).all():
            raise UsageError(f"{EMBEDDING_TABLE}: has rows that are not finite; train or export the model again")
        quantized = int8_per_channel(block, axis=0)
        rows[part], scales[part] = quantized.integers, quantized.scales
    written = {}
    for name, array in ((EMBEDDING_TABLE, rows), (EMBEDDING_SCALE_TABLE, scales)):
        file = f"tables/{name}.npy"
        (folder / file).parent.mkdir(exist_ok=True)
        np.save(folder / file, array)
        written[name] = TableSpec(name, file, str(array.dtype), array.shape)
    return written

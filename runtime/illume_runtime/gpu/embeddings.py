"""Embeddings of a segment's tokens on the device, as the bundle stores them: a step widens the rows that it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from illume_kernels.launch import Launch
from illume_kernels.step_launch import gather_embedding
from illume_runtime.device.array import DeviceArray
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.token_embedding import TokenEmbedding


@dataclass(frozen=True, slots=True)
class DeviceEmbedding:
    """Rows [n, D] in float32, float16 or int8, the last with a scale for each row."""

    rows: DeviceArray
    scales: DeviceArray | None

    def gather(
        self, token: DeviceArray, appended: DeviceArray, output: DeviceArray, *, num_appended: int, sides: int
    ) -> Launch:
        """Of token [B] and the rows `appended` behind each, for every side: output float32 [sides B, 1 + A, D]."""
        return gather_embedding(
            self.rows.address,
            token.address,
            appended.address,
            output.address,
            num_ids=self.rows.shape[0],
            width=self.rows.shape[1],
            start=0,
            batch=token.shape[0],
            num_appended=num_appended,
            sides=sides,
            kind=self.rows.dtype.name,
            scales=0 if self.scales is None else self.scales.address,
        )


def device_embedding(
    embedding: TokenEmbedding, ids: NDArray[np.int64], accelerator: Accelerator, what: str
) -> DeviceEmbedding:
    """The rows of some ids, uploaded. Raises MemoryLimitError."""
    rows, scales = embedding.stored(ids)
    return DeviceEmbedding(
        accelerator.uploaded(rows, what), None if scales is None else accelerator.uploaded(scales, what)
    )

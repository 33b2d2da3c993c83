"""What one pass over the calibration data leaves of every tensor that may be quantized: its size does not grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from illume_calibration.histogram import Histogram
from illume_calibration.row_sample import RowSample


@dataclass(slots=True)
class TensorStatistics:
    """Magnitudes of a tensor, and the largest one of each of its channels [C] (axis `axis`).

    What goes into a product (`axis` -1) leaves a sample of its rows too.
    """

    axis: int
    histogram: Histogram = field(default_factory=Histogram)
    channels: NDArray[np.float32] | None = None
    sample: RowSample = field(default_factory=RowSample)

    def add(self, values: NDArray[np.floating]) -> None:
        """Count the values. Raises ValueError if one is not finite."""
        self.histogram.add(values)
        axis = self.axis % values.ndim
        largest = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis)).astype(np.float32)
        self.channels = largest if self.channels is None else np.maximum(self.channels, largest)
        if self.axis == -1:
            self.sample.add(values)

    def scaled_histogram(self, divisors: NDArray[np.float32]) -> Histogram:
        """The magnitudes of the sampled rows, each channel divided by its divisor [C]; the largest is that of all rows.

        Raises ValueError if no rows were kept.
        """
        if self.channels is None or not len(self.sample.rows):
            raise ValueError("has no sample of rows")
        histogram = Histogram()
        histogram.add((self.channels / divisors).max(keepdims=True))
        histogram.add(self.sample.rows / divisors)
        return histogram


@dataclass(slots=True)
class StageStatistics:
    """Statistics by tensor, and how often the stage was called."""

    tensors: dict[str, TensorStatistics] = field(default_factory=dict)
    calls: int = 0


Statistics = dict[str, StageStatistics]  # by stage


def arrays_from_statistics(statistics: Statistics) -> dict[str, NDArray[Any]]:
    """Everything as arrays, for one file."""
    arrays: dict[str, NDArray[Any]] = {}
    for stage, of_stage in statistics.items():
        arrays[f"{stage}|calls"] = np.array(of_stage.calls)
        for tensor, found in of_stage.tensors.items():
            key = f"{stage}|{tensor}"
            histogram = found.histogram
            arrays[f"{key}|counts"] = histogram.counts
            arrays[f"{key}|facts"] = np.array([found.axis, histogram.exponent, histogram.largest])
            if found.channels is not None:
                arrays[f"{key}|channels"] = found.channels
            if found.sample.seen:
                arrays[f"{key}|rows"] = found.sample.rows
                arrays[f"{key}|numbers"] = found.sample.numbers
                arrays[f"{key}|seen"] = np.array(found.sample.seen)
    return arrays


def statistics_from_arrays(arrays: dict[str, NDArray[Any]]) -> Statistics:
    """The reverse of `arrays_from_statistics`."""
    statistics: Statistics = {}
    for key, array in arrays.items():
        stage, *rest = key.split("|")
        of_stage = statistics.setdefault(stage, StageStatistics())
        if rest == ["calls"]:
            of_stage.calls = int(array)
        elif rest[-1] == "facts":
            axis, exponent, largest = array.tolist()
            found = TensorStatistics(int(axis))
            found.histogram.exponent, found.histogram.largest = int(exponent), largest
            found.histogram.counts = arrays[f"{stage}|{rest[0]}|counts"]
            found.channels = arrays.get(f"{stage}|{rest[0]}|channels")
            if f"{stage}|{rest[0]}|seen" in arrays:
                found.sample.rows = arrays[f"{stage}|{rest[0]}|rows"]
                found.sample.numbers = arrays[f"{stage}|{rest[0]}|numbers"]
                found.sample.seen = int(arrays[f"{stage}|{rest[0]}|seen"])
            of_stage.tensors[rest[0]] = found
    return statistics

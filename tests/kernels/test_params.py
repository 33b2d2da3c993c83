import numpy as np
import pytest

from illume_kernels.oracle import SampleParams


def test_broadcast_fills_each_array():
    params = SampleParams.broadcast(3, temperature=0.5, request=[1, 2, 3], seed=(1 << 64) - 1)
    assert len(params) == 3
    assert params.temperature.tolist() == [0.5] * 3
    assert params.request.tolist() == [1, 2, 3]
    assert params.seed.tolist() == [(1 << 64) - 1] * 3
    dtypes = [getattr(params, name).dtype.name for name in SampleParams.__slots__]
    assert dtypes == ["float32", "int64", "float32", "float32", "uint64", "uint32", "uint32"]


@pytest.mark.parametrize(
    ("scalars", "match"),
    [
        ({"temperature": -1}, r"temperature=-1.0 in row 0, expected finite and >= 0"),
        ({"temperature": [1, np.nan]}, r"temperature=nan in row 1"),
        ({"temperature": np.inf}, r"temperature=inf"),
        ({"top_k": -1}, r"top_k=-1 in row 0, expected >= 0"),
        ({"top_k": 1.5}, r"top_k=1.5, expected integers"),
        ({"top_p": 0}, r"top_p=0.0 in row 0, expected in \(0, 1\]"),
        ({"top_p": 1.01}, r"top_p=1.0"),
        ({"min_p": 2}, r"min_p=2.0 in row 0, expected in \[0, 1\]"),
        ({"seed": -1}, r"seed=-1, expected integers in \[0, 18446744073709551615\]"),
        ({"request": 1 << 32}, r"request=4294967296, expected integers in \[0, 4294967295\]"),
        ({"step": [1, 2, 3]}, r"step has shape \(3,\), expected a scalar or \(2,\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_out_of_range_are_refused(scalars, match):
    with pytest.raises(ValueError, match=match):
        SampleParams.broadcast(2, **scalars)


def test_arrays_of_another_type_are_refused():
    good = SampleParams.broadcast(2)
    arrays = {name: getattr(good, name) for name in SampleParams.__slots__}
    with pytest.raises(ValueError, match=r"top_k has shape \(2,\) int32, expected \[B\] int64.*SampleParams.broadcast"):
        SampleParams(**{**arrays, "top_k": np.zeros(2, np.int32)})
    with pytest.raises(ValueError, match=r"step has shape \(3,\) uint32"):
        SampleParams(**{**arrays, "step": np.zeros(3, np.uint32)})

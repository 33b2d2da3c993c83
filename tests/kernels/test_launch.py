import numpy as np
import pytest

from illume_kernels.launch import Gpu, Segment
from illume_kernels.params import SampleParams
from illume_kernels.rows import ROW, TRACE, bits_of_tokens, rows_from_params
from illume_kernels.sample_plan import sample_plan
from illume_kernels.step_launch import gather_embedding, guidance_step, head_gemv

ORIN, H100 = Gpu((8, 7), 16, 163 * 1024), Gpu((9, 0), 132, 227 * 1024)


@pytest.mark.parametrize("batch", [1, 2, 7, 16, 300])
@pytest.mark.parametrize("num_tokens", [1, 514, 32_768, 98_304, 282_776])
def test_all_ctas_of_a_group_fit_the_gpu_at_once(num_tokens, batch):
    plan = sample_plan(ORIN, batch, num_tokens)
    assert plan.symbol == "sample_group"
    assert plan.group == 1 or plan.group * batch <= ORIN.num_processors
    assert plan.shared_bytes <= ORIN.shared_bytes
    assert plan.workspace_bytes == 74_880 * batch


@pytest.mark.parametrize("num_tokens", [1, 514, 32_768, 98_304, 282_776])
def test_a_row_is_a_cluster_where_there_are_clusters(num_tokens):
    plan = sample_plan(H100, 8, num_tokens)
    assert plan.symbol == "sample_cluster"
    assert plan.group in (1, 2, 4, 8)
    launch = plan.launch(Segment(1 << 20, "float16", 282_776, 0, num_tokens), 1, 2, 3)
    assert launch.cluster == launch.grid[0] == plan.group
    assert launch.shared_bytes <= H100.shared_bytes
    assert launch.num_bytes == 8 * num_tokens * 2


def test_structures_have_the_sizes_of_the_source():
    assert (ROW.itemsize, TRACE.itemsize) == (56, 40)


def test_bitmaps():
    bits = bits_of_tokens([0, 33, -1, 99, 63], 64)
    assert bits.tolist() == [1, 1 << 1 | 1 << 31]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segment(0, "float16", 100, 90, 11), "inside the row"),
        (lambda: Segment(0, "float16", 100, -1, 5), "inside the row"),
        (lambda: Segment(0, "float64", 100, 0, 5), "expected one of float32"),
        (lambda: sample_plan(Gpu((7, 2), 8, 96 << 10), 1, 10), "or later"),
        (lambda: sample_plan(ORIN, 0, 10), "at least one"),
        (lambda: sample_plan(ORIN, 1, 9).launch(Segment(0, "float16", 100, 0, 10), 1, 2, 3), "make a plan for each"),
        (lambda: sample_plan(ORIN, 1, 10).launch(Segment(0, "float16", 100, 0, 10), 1, 2, 3), "allocate what"),
        (lambda: rows_from_params(SampleParams.broadcast(1), penalty=0), "use 1 to switch it off"),
        (lambda: _head(num_rows=17), "1 to 16"),
        (lambda: _head(kind="int3"), "expected weights of"),
        (lambda: _head(hidden_size=12), "multiple of 8"),
        (lambda: _head(start=95), "inside the vocabulary"),
        (lambda: _head(num_rows=3, guidance=2.0), "conditional and unconditional"),
        (lambda: _gather(kind="int4"), "expected one of float32, float16, bfloat16, int8"),
        (lambda: _gather(kind="int8"), "int8 alone with scales"),
        (lambda: _gather(scales=5), "int8 alone with scales"),
        (lambda: _gather(num_ids=0), "one of each at least"),
        (lambda: _step(input_stride=9), "at least as long"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_arguments_are_scalars_of_known_size():
    for launch in (_head(), _gather(), _step()):
        assert all(isinstance(argument, np.generic) for argument in launch.arguments)


def _head(**changes):
    sizes = {
        "kind": "int4",
        "group": 32,
        "hidden_size": 64,
        "dtype": "float16",
        "num_rows": 2,
        "vocabulary": 100,
        "start": 0,
        "num_tokens": 10,
        "guidance": None,
    }
    return head_gemv(1, 2, 3, 4, **{**sizes, **changes})


def _gather(**changes):
    sizes = {"num_ids": 9, "width": 16, "start": 0, "batch": 1, "num_appended": 0, "sides": 2}
    return gather_embedding(1, 2, 3, 4, **{**sizes, **changes})


def _step(input_stride=10):
    return guidance_step(
        ORIN,
        *range(1, 7),
        dtype="float16",
        batch=1,
        num_elements=10,
        input_stride=input_stride,
        guidance=1.0,
        is_guided=False,
    )

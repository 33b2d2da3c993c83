"""What both implementations of a device have to do, on a GPU or on the fake driver.

`python contract.py cuda_core` runs every check and prints {check: what went wrong, or null} as JSON.
"""

import importlib
import json
import sys
import threading
import traceback

import numpy as np
import pytest

from illume_kernels import oracle
from illume_kernels.launch import Segment
from illume_kernels.params import SampleParams
from illume_kernels.rows import rows_from_params
from illume_kernels.sample_plan import sample_plan
from illume_kernels.step_launch import gather_embedding
from illume_runtime.device.images import kernel_image
from illume_runtime.errors import EngineError, MemoryLimitError, UnavailableError


def kernels(device):
    return device.module(kernel_image(device.compute_capability))


def uploaded(device, stream, array):
    memory = device.allocate(max(array.nbytes, 1))
    stream.upload(memory.address, array)
    return memory


def downloaded(stream, memory, dtype, shape):
    array = np.zeros(shape, dtype)
    stream.download(array, memory.address)
    stream.synchronize()
    return array


def check_memory_goes_there_and_back(device):
    stream = device.stream()
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    first, second = uploaded(device, stream, values), device.allocate(values.nbytes)
    assert first.address % 256 == second.address % 256 == 0
    assert first.num_bytes == values.nbytes
    stream.copy(second.address, first.address, values.nbytes)
    np.testing.assert_array_equal(downloaded(stream, second, np.float32, 1000), values)
    stream.zero(second.address + 4, 8)
    expected = values.copy()
    expected[1:3] = 0
    np.testing.assert_array_equal(downloaded(stream, second, np.float32, 1000), expected)


def check_pinned_memory_is_seen_by_both_sides(device):
    stream, pinned = device.stream(), device.pinned(64)
    assert pinned.array.shape == (64,)
    pinned.array[:] = np.arange(64)
    memory = device.allocate(64)
    stream.upload(memory.address, pinned.array)
    stream.synchronize()
    pinned.array[:] = 0
    stream.copy(pinned.address, memory.address, 64)
    event = stream.record()
    event.synchronize()
    np.testing.assert_array_equal(pinned.array, np.arange(64))


def check_one_stream_waits_for_another(device):
    first, second = device.stream(), device.stream()
    assert first.handle != second.handle
    memory = uploaded(device, first, np.arange(4))
    second.wait(first.record())
    np.testing.assert_array_equal(downloaded(second, memory, np.int64, 4), np.arange(4))


def check_timed_events_measure_the_work_between_them(device):
    stream = device.stream()
    first = stream.record(is_timed=True)
    memory = [device.allocate(1 << 20) for _ in range(2)]
    for _ in range(100):
        stream.copy(memory[1].address, memory[0].address, 1 << 20)
    last = stream.record(is_timed=True)
    last.synchronize()
    assert 0 < last.ms_since(first) < 60_000
    with pytest.raises(EngineError):
        last.ms_since(stream.record())


def gathering(device, stream):
    table = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    memory = [uploaded(device, stream, a) for a in (table, np.array([3, 1], np.int32), np.zeros((2, 8), np.float32))]
    launch = gather_embedding(
        memory[0].address, memory[1].address, 0, memory[2].address,
        num_ids=8, width=8, start=0, batch=2, num_appended=0, sides=1,
    )  # fmt: skip
    return table, memory, launch


def check_a_graph_does_its_work_when_it_is_replayed_and_not_before(device):
    stream, module = device.stream(), kernels(device)
    table, memory, launch = gathering(device, stream)
    copy = uploaded(device, stream, np.zeros((2, 8), np.float32))

    def enqueue():
        stream.launch(module, launch)
        stream.copy(copy.address, memory[2].address, 64)

    stream.launch(module, launch)  # what is not loaded yet is loaded now, which no capture has to allow
    graph = stream.captured(enqueue)
    assert not downloaded(stream, copy, np.float32, (2, 8)).any()
    graph.replay()
    np.testing.assert_array_equal(downloaded(stream, copy, np.float32, (2, 8)), table[[3, 1]])
    stream.upload(memory[1].address, np.array([7, 0], np.int32))
    graph.replay()
    np.testing.assert_array_equal(downloaded(stream, copy, np.float32, (2, 8)), table[[7, 0]])


def check_a_capture_that_fails_leaves_the_stream_usable(device):
    stream = device.stream()

    def enqueue():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        stream.captured(enqueue)
    memory = uploaded(device, stream, np.arange(4))
    np.testing.assert_array_equal(downloaded(stream, memory, np.int64, 4), np.arange(4))


def check_replays_of_the_sampler_draw_what_the_oracle_draws(device):
    """Also that clusters, and shared memory beyond 48 KiB, are launched as planned."""
    stream, module = device.stream(), kernels(device)
    batch, n = 1, 50_000
    plan = sample_plan(device.gpu, batch, n)
    assert plan.shared_bytes > 48 << 10
    logits = np.random.default_rng(2).standard_normal((batch, n)).astype(np.float32)
    params = SampleParams.broadcast(batch, seed=3, request=[7], top_k=50, top_p=0.9)
    rows = uploaded(device, stream, rows_from_params(params))
    given = uploaded(device, stream, logits)
    step, token = uploaded(device, stream, np.zeros(batch, np.uint32)), device.allocate(4)
    workspace = uploaded(device, stream, np.zeros(plan.workspace_bytes, np.uint8))
    keys = device.allocate(max(plan.keys_bytes, 1))
    launch = plan.launch(
        Segment(given.address, "float32", n, 0, n), rows.address, step.address, token.address,
        workspace=workspace.address if plan.workspace_bytes else 0, keys=keys.address if plan.keys_bytes else 0,
    )  # fmt: skip
    stream.launch(module, launch)  # loads it
    stream.zero(step.address, 4)
    graph = stream.captured(lambda: stream.launch(module, launch))
    for k in range(3):
        graph.replay()
        got = downloaded(stream, token, np.int32, batch)
        np.testing.assert_array_equal(got, oracle.sample(logits, params.at_step(k)))


def check_another_thread_may_use_it_where_it_is_current(device):
    values, got = np.arange(4), []

    def work():
        with device.current():
            stream = device.stream()
            got.append(downloaded(stream, uploaded(device, stream, values), np.int64, 4))

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(got, [values, values])
    stream = device.stream()
    np.testing.assert_array_equal(downloaded(stream, uploaded(device, stream, values), np.int64, 4), values)


def check_launches_are_planned_for_what_can_be_launched(device):
    assert device.gpu.num_processors > 0
    assert device.gpu.compute_capability <= device.compute_capability


def check_memory_that_is_not_there_is_a_memory_error(device):
    free = device.free_bytes()
    assert free > 0
    with pytest.raises(MemoryLimitError, match="the GPU is out of memory; draw fewer"):
        device.allocate(1 << 50)


def check_memory_that_was_given_up_is_free_again(device):
    free = device.free_bytes()
    memory = device.allocate(256 << 20)
    assert device.free_bytes() <= free - (200 << 20)
    del memory
    assert device.free_bytes() >= free - (64 << 20)


def check_bytes_that_are_no_kernels_are_refused(device):
    with pytest.raises(UnavailableError, match="the driver cannot run these kernels"):
        device.module(b"no kernels at all" * 8)


def check_an_unknown_kernel_is_an_error(device):
    stream, module = device.stream(), kernels(device)
    _, _, launch = gathering(device, stream)
    object.__setattr__(launch, "symbol", "no_such_kernel")
    with pytest.raises(EngineError, match="no_such_kernel"):
        stream.launch(module, launch)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def main(implementation):
    device = importlib.import_module(f"illume_runtime.device.{implementation}").open_device()
    results = {}
    for name, check in CHECKS.items():
        try:
            check(device)
            results[name] = None
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])

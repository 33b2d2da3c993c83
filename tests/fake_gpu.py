"""A GPU in numpy: a device that records its calls, kernels by their definitions, stages on ONNX Runtime's CPU.

Work waits in a queue until something synchronizes, so that a host that reads too early reads what was there before.
"""

import ctypes
from collections import Counter
from contextlib import nullcontext
from time import perf_counter_ns

import numpy as np

from illume_kernels import gumbel, oracle
from illume_kernels.fixed_point import ONE
from illume_kernels.flow import guided_step
from illume_kernels.guidance import guided
from illume_kernels.launch import Gpu
from illume_kernels.params import SampleParams
from illume_kernels.penalty import repetition_penalty
from illume_kernels.rows import ROW
from illume_runtime.device.array import DeviceArray
from illume_runtime.errors import MemoryLimitError
from illume_runtime.gpu.accelerator import Accelerator
from illume_runtime.ort import cpu_session


def view(address, dtype, *shape):
    """The array at an address."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if count == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer((ctypes.c_uint8 * count).from_address(int(address)), dtype).reshape(shape)


class FakeMemory:
    def __init__(self, num_bytes, on_end=lambda: None):
        self._on_end = on_end
        self._bytes = np.full(num_bytes + 256, 0xA5, np.uint8)
        start = -self._bytes.ctypes.data % 256
        self.array = self._bytes[start : start + num_bytes]
        self.address, self.num_bytes = self.array.ctypes.data, num_bytes

    def __del__(self):
        self._on_end()


class FakeEvent:
    def __init__(self, stream, is_timed):
        self._stream, self._is_timed, self.done_ns = stream, is_timed, None

    def reach(self):
        self.done_ns = perf_counter_ns()

    def synchronize(self):
        self._stream.device.calls["wait for an event"] += 1
        while self.done_ns is None:
            self._stream.work_off_one()

    def ms_since(self, earlier):
        assert self._is_timed
        assert earlier._is_timed
        return (self.done_ns - earlier.done_ns) / 1e6


class FakeGraph:
    def __init__(self, stream, work):
        self._stream, self._work = stream, work

    def replay(self):
        self._stream.device.calls["replay"] += 1
        self._stream.queue += self._work


class FakeStream:
    handle = 0x5EED

    def __init__(self, device):
        self.device = device
        self.queue = []
        self._captured = None

    def put(self, work, name):
        """Do it when the stream comes here."""
        capturing = self._captured is not None
        self.device.calls[f"capture {name}" if capturing else name] += 1
        (self._captured if capturing else self.queue).append(work)

    def work_off_one(self):
        self.queue.pop(0)()

    def launch(self, module, launch):
        assert launch.cluster == 1 or launch.grid[0] % launch.cluster == 0
        self.put(lambda: self.device.run_kernel(launch), launch.symbol)

    def upload(self, target, source):
        assert source.flags.c_contiguous
        staged = source.copy()
        self.put(lambda: ctypes.memmove(target, staged.ctypes.data, staged.nbytes), "upload")

    def download(self, target, source):
        assert target.flags.c_contiguous
        self.put(lambda: ctypes.memmove(target.ctypes.data, source, target.nbytes), "download")

    def copy(self, target, source, num_bytes):
        self.put(lambda: ctypes.memmove(target, source, num_bytes), "copy")

    def zero(self, target, num_bytes):
        self.put(lambda: ctypes.memset(target, 0, num_bytes), "zero")

    def record(self, *, is_timed=False):
        event = FakeEvent(self, is_timed)
        self.put(event.reach, "record")
        return event

    def wait(self, event):
        self.put(lambda: None, "wait")

    def synchronize(self):
        assert self._captured is None, "the host waits within a capture"
        self.device.calls["synchronize"] += 1
        while self.queue:
            self.work_off_one()

    def captured(self, enqueue):
        self._captured = work = []
        try:
            enqueue()
        finally:
            self._captured = None
        self.device.calls["graph"] += 1
        return FakeGraph(self, work)


class FakeDevice:
    name = "fake GPU"

    def __init__(self, compute_capability=(9, 0), memory_bytes=1 << 30):
        self.compute_capability = compute_capability
        self.gpu = Gpu(compute_capability, 4, 163 << 10)
        self.calls = Counter()
        self.run_kernel = run_kernel
        self.left = memory_bytes

    def current(self):
        self.calls["current"] += 1
        return nullcontext()

    def free_bytes(self):
        return self.left

    def allocate(self, num_bytes):
        self.calls["allocate"] += 1
        if num_bytes > self.left:
            raise MemoryLimitError("the GPU is out of memory")
        self.left -= num_bytes

        def given_back():
            self.left += num_bytes

        return FakeMemory(num_bytes, given_back)

    def pinned(self, num_bytes):
        return FakeMemory(num_bytes)

    def stream(self):
        return FakeStream(self)

    def module(self, image):
        return image


def run_kernel(launch):
    """What a launch does, by the definitions in numpy."""
    KERNELS[launch.symbol](*launch.arguments, grid=launch.grid)


def _gather_embedding(table, kind, scales, num_ids, width, token, start, appended, output, grid):
    num_new, batch, sides = grid
    dtype = {0: np.float32, 1: np.float16, 3: np.int8}[int(kind)]
    rows = view(table, dtype, int(num_ids), int(width)).astype(np.float32)
    if scales:
        rows *= view(scales, np.float32, int(num_ids), 1)
    out = view(output, np.float32, sides, batch, num_new, int(width))
    tokens = view(token, np.int32, batch)
    forced = view(appended, np.int32, num_new - 1)
    for b in range(batch):
        for j in range(num_new):
            given = int(tokens[b]) + int(start) if j == 0 else int(forced[j - 1])
            known = (tokens[b] >= 0 if j == 0 else given >= 0) and given < num_ids
            out[:, b, j] = rows[given] if known else 0


def _advance_step(token, ring, batch, num_slots, count, length, positions, rows, num_new, grid):
    counter, lengths = view(count, np.uint32, 1), view(length, np.int64, int(rows))
    slots = view(ring, np.int32, int(num_slots), int(batch))
    slots[int(counter[0]) % int(num_slots)] = view(token, np.int32, int(batch))
    if num_new:
        view(positions, np.int64, int(rows), int(num_new))[:] = lengths[:, None] + np.arange(int(num_new))
    lengths += int(num_new)
    counter += 1


def _sample(logits, dtype, row_stride, start, num_tokens, rows, step, seen, banned, token, grid, chosen=oracle.sample):
    batch, n = grid[1], int(num_tokens)
    kind = (np.float32, np.float16)[int(dtype)]
    given = view(rows, np.uint8, batch * ROW.itemsize).view(ROW)
    steps, tokens = view(step, np.uint32, batch), view(token, np.int32, batch)
    top = max(given["cond_row"].max(), given["uncond_row"].max()) + 1
    values = view(logits, kind, int(top), int(row_stride))[:, int(start) : int(start) + n].astype(np.float32)
    bits = view(seen, np.uint32, batch, (n + 31) // 32) if seen else None
    bans = view(banned, np.uint32, (n + 31) // 32) if banned else np.zeros(0, np.uint32)
    illegal = np.flatnonzero(np.unpackbits(bans.view(np.uint8), bitorder="little")).tolist()
    for b, row in enumerate(given):
        x = values[row["cond_row"]][None].copy()
        if bits is not None and row["penalty"] != 1:
            ids = np.flatnonzero(np.unpackbits(bits[b].view(np.uint8), bitorder="little"))
            x = repetition_penalty(x, ids[None], float(row["penalty"]))
        if row["uncond_row"] >= 0:
            x = guided(x, values[row["uncond_row"]][None], float(row["guidance"]))
        params = SampleParams.broadcast(
            1,
            temperature=row["temperature"],
            top_k=int(row["top_k"]),
            top_p=np.float32(float(row["top_p"]) / 2**64) if row["top_p"] else np.float32(1),
            min_p=np.float32(float(row["min_weight"]) / ONE),
            seed=row["seed"],
            request=row["request"],
            step=steps[b],
        )
        tokens[b] = chosen(x, params, banned=illegal)[0]
        if bits is not None and tokens[b] >= 0:
            bits[b, tokens[b] // 32] |= np.uint32(1 << (tokens[b] % 32))
    steps += 1


def _sample_cluster(logits, dtype, stride, start, n, rows, step, seen, banned, keys, token, chance, trace, grid):
    _sample(logits, dtype, stride, start, n, rows, step, seen, banned, token, grid)


def _sample_group(logits, dtype, stride, start, n, rows, step, seen, banned, keys, space, token, chance, trace, grid):
    _sample(logits, dtype, stride, start, n, rows, step, seen, banned, token, grid)


def _sample_gumbel(logits, dtype, stride, start, n, rows, step, seen, banned, workspace, token, grid):
    def chosen(x, params, banned):
        x[:, banned] = -np.inf
        return gumbel.sample_gumbel(x, params)

    _sample(logits, dtype, stride, start, n, rows, step, seen, banned, token, grid, chosen)


def _guidance_step(x, previous, e, model_input, dtype, batch, n, stride, guidance, sides, table, state, grid):
    assert dtype == 0
    batch, n, sides = int(batch), int(n), int(sides)
    counter = view(state, np.uint32, 2)
    p, q, a, b, c, scale = view(table, np.float32, int(counter[0]) + 1, 6)[-1]
    latents, before = view(x, np.float32, batch, n), view(previous, np.float32, batch, n)
    noise = view(e, np.float32, sides, batch, n)
    uncond = noise[1] if sides == 2 else None
    last = before.copy() if c != 0 else None
    after, m = guided_step(latents.copy(), noise[0], uncond, float(guidance), last, p=p, q=q, a=a, b=b, c=c)
    latents[:], before[:] = after, m
    view(model_input, np.float32, sides, batch, int(stride))[:, :, :n] = scale * after
    counter[0] += 1


KERNELS = {
    "gather_embedding": _gather_embedding,
    "advance_step": _advance_step,
    "sample_cluster": _sample_cluster,
    "sample_group": _sample_group,
    "sample_gumbel": _sample_gumbel,
    "guidance_step": _guidance_step,
}


class FakeSession:
    """A stage of ONNX Runtime's CPU on the memory of the fake device."""

    def __init__(self, path, spec, accelerator, *, is_capturable=True, max_rows=None):
        self._session, self._accelerator = cpu_session(path, spec, 1), accelerator
        self.spec, self.moved_bytes, self.max_rows, self.slots = spec, spec.weight_bytes, max_rows, None
        self._is_capturable = is_capturable
        self.run, self.bind = self._session.run, self._session.bind

    def dtype_of(self, name):
        return np.dtype(next(p.dtype for p in (*self.spec.inputs, *self.spec.outputs) if p.name == name))

    def bind_device(self, inputs, outputs):
        arrays = {}

        def host(array: DeviceArray):
            key = (array.address, array.shape)
            return arrays.setdefault(key, view(array.address, array.dtype, *array.shape))

        bound = self._session.bind({n: host(a) for n, a in inputs.items()}, {n: host(a) for n, a in outputs.items()})
        return FakeRun(bound, self, (inputs, outputs))


class FakeRun:
    def __init__(self, bound, session, kept):
        self._bound, self._session, self._kept = bound, session, kept
        self.is_capturable = session._is_capturable

    def enqueue(self):
        self._session._accelerator.stream.put(self._bound.run, self._session.spec.name)


def fake_gpu(device=None, **options):
    """The accelerator and what opens stages on it, as `gpu_sessions` gives them."""
    accelerator = Accelerator(device or FakeDevice(), b"kernels")

    def open_session(path, spec, device, threads):
        return FakeSession(path, spec, accelerator, **options)

    return accelerator, open_session

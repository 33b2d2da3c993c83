"""One batch for the sampling kernels: its memory, its launch, and what the oracle says about it."""

from dataclasses import dataclass, field

import numpy as np
from addresses import address

from illume_kernels import oracle
from illume_kernels.fixed_point import ceil_share, mulhi64, weights_from_scores
from illume_kernels.guidance import guided
from illume_kernels.launch import Gpu, Segment
from illume_kernels.oracle import repetition_penalty
from illume_kernels.params import SampleParams
from illume_kernels.philox import STREAM_TOKENS, uniform_u64
from illume_kernels.rows import TRACE, bits_of_tokens, rows_from_params
from illume_kernels.sample_plan import plan_of

GROUP_GPU = Gpu((8, 7), 16, 163 * 1024)
CLUSTER_GPU = Gpu((9, 0), 132, 227 * 1024)


def stored(values, dtype):
    """Values float32 as they lie in memory, and the float32 that they then stand for."""
    values = np.asarray(values, np.float32)
    if dtype == "float32":
        return values.copy(), values
    if dtype == "float16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        return half, half.astype(np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded, (rounded.astype(np.uint32) << 16).view(np.float32)


def key_of(x):
    bits = (np.asarray(x, np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))


@dataclass
class Case:
    cond: np.ndarray  # [B, n] float32
    params: SampleParams
    uncond: np.ndarray | None = None
    guidance: float = 1.0
    penalty: float = 1.0
    seen: list | None = None  # tokens of each row
    banned: list = field(default_factory=list)
    forced: np.ndarray | int = -1
    dtype: str = "float32"
    before: int = 0  # tokens of the row before the segment and behind it
    after: int = 0
    group: int = 1
    block: int = 64
    gpu: Gpu = GROUP_GPU

    def __post_init__(self):
        batch, n = self.cond.shape
        sides = [self.cond] if self.uncond is None else [self.cond, self.uncond]
        logits = np.full((len(sides) * batch, self.before + n + self.after), 1e30, np.float32)  # poison outside
        logits[:, self.before : self.before + n] = np.concatenate(sides)
        self.logits, values = stored(logits, self.dtype)
        values = values[:, self.before : self.before + n]
        cond = values[:batch]
        if self.seen is not None:
            width = max(1, *map(len, self.seen))
            ids = np.array([[*row, *[-1] * (width - len(row))] for row in self.seen], np.int64)
            cond = repetition_penalty(cond, ids, self.penalty)
        self.scores = cond if self.uncond is None else guided(cond, values[batch:], self.guidance)
        self.rows = rows_from_params(
            self.params,
            guidance=self.guidance,
            penalty=self.penalty,
            uncond_row=-1 if self.uncond is None else np.arange(batch, 2 * batch),
            forced=self.forced,
        )
        self.plan = plan_of(self.gpu, batch, n, group=self.group, block=self.block)
        self.workspace = np.zeros(self.plan.workspace_bytes, np.uint8) if self.plan.workspace_bytes else None
        self.keys = np.full(self.plan.keys_bytes, 0xA5, np.uint8) if self.plan.keys_bytes else None
        self.step = self.params.step.copy()
        self.token = np.full(batch, -99, np.int32)
        self.chance = np.full(batch, -99, np.float32)
        self.trace = np.zeros(batch, TRACE)
        self.banned_bits = bits_of_tokens(self.banned, n) if len(self.banned) else None
        self.seen_bits = None if self.seen is None else np.stack([bits_of_tokens(row, n) for row in self.seen])
        self.launch = self.plan.launch(
            Segment(address(self.logits), self.dtype, logits.shape[1], self.before, n),
            address(self.rows),
            address(self.step),
            address(self.token),
            workspace=address(self.workspace),
            keys=address(self.keys),
            seen=address(self.seen_bits),
            banned=address(self.banned_bits),
            chance=address(self.chance),
            trace=address(self.trace),
            guided=self.uncond is not None,
        )

    def check(self, device, schedule="forward", seed=1):
        """Runs it and compares every decision; the memory must be left as it was found."""
        batch, n = self.cond.shape
        given, step = self.logits.copy(), self.step.copy()
        seen = None if self.seen_bits is None else self.seen_bits.copy()
        device.run(self.launch, schedule, seed)
        params = self.params.at_step(int(step[0])) if (step == step[0]).all() else self.params
        forced = np.broadcast_to(np.asarray(self.forced, np.int64), (batch,))
        banned = self.banned if len(self.banned) else None
        tokens = oracle.sample(self.scores, params, forced=forced, banned=banned)
        for row in range(batch):
            if forced[row] < 0:
                self._check_trace(row, params, banned)
        np.testing.assert_array_equal(self.token, tokens)
        chances = oracle.probabilities(self.scores, params, banned=banned)
        drawn = np.where((tokens < 0) | (forced >= 0), 0, tokens)
        expected = np.where(forced >= 0, 1.0, np.where(tokens < 0, 0.0, chances[np.arange(batch), drawn]))
        np.testing.assert_array_equal(self.chance, expected.astype(np.float32))
        np.testing.assert_array_equal(self.step, step + 1)
        np.testing.assert_array_equal(self.logits, given)
        if seen is not None:
            for row, token in enumerate(tokens):
                seen[row] |= bits_of_tokens([token], n)
            np.testing.assert_array_equal(self.seen_bits, seen)
        if self.workspace is not None:
            words = self.workspace.view(np.uint32).reshape(batch, -1)
            assert not words[:, :32].any(), "the tickets are left"
            assert not words[:, 32 + 64 * 4 :].any(), "a histogram is left"

    def _check_trace(self, row, params, banned):
        t, p, k = params.temperature[row], params.top_p[row], int(params.top_k[row])
        x = self.scores[row] / (t if t > 0 else np.float32(1))
        if banned is not None:
            x[banned] = -np.inf
        x = np.where(np.isnan(x), np.float32(-np.inf), x)
        top = x.max(keepdims=True)
        got = self.trace[row]
        assert got["top_key"] == key_of(top)[0]
        if np.isneginf(top[0]):
            return
        if t == 0:
            assert got["floor_key"] == got["edge_key"] == got["top_key"]
            assert got["num_stay"] == 1
            return
        n = len(x)
        weights = weights_from_scores(x[None], top)[0]
        floor = np.sort(x)[n - k] if 0 < k < n else np.float32(-np.inf)
        assert got["floor_key"] == (key_of(floor) if 0 < k < n else 0)
        if p < 1:
            order = np.argsort(-x, kind="stable")
            order = order[x[order] >= floor]
            mass = np.cumsum(weights[order])
            target = ceil_share(mass[-1:], np.array([p], np.float32))[0]
            edge = x[order[np.searchsorted(mass, target)]]
            above = int(weights[x > edge].sum())
            assert got["edge_key"] == key_of(edge)
            assert got["above"] == above
            assert got["num_stay"] == -((above - int(target)) // int(weights[x == edge][0]))
        kept = oracle.support(self.scores[row : row + 1], _one(params, row), banned=banned)[0]
        total = kept.sum()
        uniform = uniform_u64(
            params.seed[row : row + 1], params.request[row : row + 1], params.step[row : row + 1], STREAM_TOKENS
        )
        assert got["total"] == total
        assert got["draw"] == mulhi64(np.array([total], np.uint64), uniform)[0]


def _one(params, row):
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "request", "step")
    return SampleParams(**{name: getattr(params, name)[row : row + 1] for name in names})

"""The CUDA source of `sample`, run on the CPU, equals the oracle bit for bit: every decision, not only the token."""

import itertools
import math

import numpy as np
import pytest
from cpu_device import SCHEDULES
from sample_case import CLUSTER_GPU, GROUP_GPU, Case

from illume_kernels.fixed_point import ONE, mulhi64, weights_from_scores
from illume_kernels.launch import Gpu
from illume_kernels.params import SampleParams
from illume_kernels.philox import STREAM_TOKENS, uniform_u64

NAN, INF = np.nan, np.inf
GPUS = {"group": GROUP_GPU, "cluster": CLUSTER_GPU}
FILTERS = [
    {},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 300, "top_p": 0.6, "min_p": 0.01},
    {"temperature": 0.0},
]


def normal(seed, *shape, spread=3.0):
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 7, 33, 514, 4099])
def test_every_decision_equals_the_oracle(device, gpu, dtype, n):
    schedules = itertools.cycle(SCHEDULES)
    for i, (filters, (group, block), batch, is_guided) in enumerate(
        zip(
            FILTERS * 2,
            itertools.cycle([(1, 32), (2, 64), (4, 128), (8, 32), (1, 256)]),
            itertools.cycle([1, 3, 2]),
            itertools.cycle([False, True, True, False, True]),
            strict=False,
        )
    ):
        params = SampleParams.broadcast(
            batch,
            **{"temperature": 1.3, **filters},
            seed=np.arange(batch) + (i << 40),
            request=np.arange(batch) + 5,
            step=i,
        )
        Case(
            normal(i, batch, n),
            params,
            uncond=normal(i + 99, batch, n) if is_guided else None,
            guidance=2.0,
            dtype=dtype,
            before=(0, 8, 5)[i % 3],
            after=(0, 3)[i % 2],
            group=group,
            block=block,
            gpu=GPUS[gpu],
        ).check(device, next(schedules), seed=i)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_gives_the_same(device, gpu, schedule):
    params = SampleParams.broadcast(2, temperature=0.9, top_k=[40, 700], top_p=[0.95, 0.5], min_p=[0.0, 0.001], step=3)
    for seed in range(3):
        Case(
            normal(seed, 2, 1500), params, uncond=normal(7, 2, 1500), guidance=1.7, group=4, block=64, gpu=GPUS[gpu]
        ).check(device, schedule, seed)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("seed", range(40))
def test_ties_infinities_and_nan(device, gpu, seed):
    """Alphabets of few values: ties at the k-th and at the edge of top-p, across lanes, warps and CTAs."""
    random = np.random.default_rng(seed)
    alphabets = (
        [0.0, -0.0],
        [1.0, 1.0, -INF, NAN],
        [0.0, -0.0, 0.5],
        [INF, 1.0, NAN],
        [-INF, NAN],
        [3.0, 2.999, -5.0, -40.0],
    )
    n = int(random.choice([3, 65, 300, 1111]))
    batch = 3
    cond = np.stack([random.choice(np.array(alphabets[(seed + row) % 6], np.float32), n) for row in range(batch)])
    params = SampleParams.broadcast(
        batch,
        temperature=random.choice([0.5, 1.0, 2.0, 0.0], batch, p=[0.3, 0.4, 0.2, 0.1]).astype(np.float32),
        top_k=random.choice([0, 1, 2, n // 2, n, n + 5], batch),
        top_p=random.choice(np.array([1.0, 0.97, 0.71, 0.5, 0.333, 0.0101], np.float32), batch),
        min_p=random.choice(np.array([0.0, 0.011, 0.37, 1.0], np.float32), batch),
        seed=seed,
        request=np.arange(batch),
        step=seed,
    )
    Case(cond, params, group=2 ** (seed % 4), block=32 * 2 ** (seed % 3), gpu=GPUS[gpu]).check(
        device, SCHEDULES[seed % 6], seed
    )


@pytest.mark.parametrize("block", [32, 128])
def test_of_tied_tokens_only_the_first_stay_also_where_larger_ones_follow(device, block):
    """Half of the ties fall behind the edge of top-p, in later threads and warps."""
    logits = np.tile(np.float32([0, 1, 0, 0]), (1, 250))
    case = Case(logits, SampleParams.broadcast(1, top_p=0.7, seed=3), block=block)
    for _ in range(30):
        case.check(device)


def test_of_the_tied_tokens_of_one_thread_only_the_first_stay(device):
    """All that may be drawn lies among the 33 neighbours of the sixth of 32 threads, ties and larger ones in turn."""
    logits = np.full((1, 32 * 33), -np.inf, np.float32)
    logits[0, 5 * 33 : 6 * 33] = np.tile(np.float32([0, 1, 0]), 11)
    case = Case(logits, SampleParams.broadcast(1, top_p=0.7, seed=3), block=32)
    for _ in range(30):
        case.check(device)


@pytest.mark.parametrize("gpu", GPUS)
def test_penalty_and_banned_tokens(device, gpu):
    n = 700
    seen = [[0, 5, 5, 699, 31, 32], [], list(range(0, n, 3))]
    params = SampleParams.broadcast(3, temperature=0.8, top_k=100, top_p=0.9, request=[1, 2, 3])
    case = Case(
        normal(4, 3, n), params, normal(5, 3, n), 1.5, 1.3, seen, banned=[0, 31, 64, 699], group=2, gpu=GPUS[gpu]
    )
    for _ in range(4):  # the drawn token joins those seen
        case.check(device)
        for row, token in zip(seen, case.token.tolist(), strict=True):
            row.append(token)
        fresh = Case(
            case.cond,
            params.at_step(int(case.step[0])),
            case.uncond,
            1.5,
            1.3,
            seen,
            case.banned,
            group=2,
            gpu=GPUS[gpu],
        )
        np.testing.assert_array_equal(fresh.seen_bits, case.seen_bits)
        case = fresh


def test_zero_temperature_is_the_first_of_the_largest(device):
    logits = np.zeros((1, 1000), np.float32)
    logits[0, [400, 401, 999]] = 2
    Case(logits, SampleParams.broadcast(1, temperature=0.0), group=4).check(device)


@pytest.mark.parametrize("gpu", GPUS)
def test_no_legal_token_gives_minus_one_and_its_neighbours_are_unharmed(device, gpu):
    logits = normal(1, 4, 300)
    logits[1], logits[2] = NAN, -INF
    case = Case(logits, SampleParams.broadcast(4, top_k=20, top_p=0.9, request=range(4)), group=4, gpu=GPUS[gpu])
    case.check(device)
    assert case.token[1] == case.token[2] == -1
    assert (case.token[[0, 3]] >= 0).all()


def test_no_token_is_outside_the_segment_or_its_support(device):
    logits = normal(1, 64, 97)
    tokens = set()
    for step in range(30):
        params = SampleParams.broadcast(64, top_k=5, request=range(64), step=step)
        case = Case(logits, params, before=3, after=9, group=2, block=32)
        device.run(case.launch)
        tokens.update(case.token.tolist())
        kth = np.sort(logits, axis=1)[:, -5]
        assert (logits[np.arange(64), case.token] >= kth).all()
    assert min(tokens) >= 0
    assert max(tokens) < 97


@pytest.mark.parametrize("gpu", GPUS)
def test_forced_tokens_pass_and_no_logit_is_read(device, gpu):
    logits = normal(1, 3, 128)
    params = SampleParams.broadcast(3, top_k=5)
    case = Case(logits, params, forced=np.array([-1, 7, 500_000]), group=2, gpu=GPUS[gpu])
    case.rows["cond_row"][1:] = 1 << 29  # reading there would fault
    case.check(device)


@pytest.mark.parametrize("gpu", GPUS)
def test_replays_draw_anew_and_equal_the_eager_sequence(device, gpu):
    """The seed and the step lie in device memory: the very same launch, again and again, as a graph replays it."""
    logits = normal(2, 2, 5000, spread=0.5)
    params = SampleParams.broadcast(2, seed=9, request=[4, 5])
    case = Case(logits, params, group=4, block=64, gpu=GPUS[gpu])
    replayed = []
    for _ in range(12):
        case.check(device)
        replayed.append(case.token.tolist())
    eager = []
    for step in range(12):
        once = Case(logits, params.at_step(step), group=2, block=128, gpu=GPUS[gpu])
        device.run(once.launch)
        eager.append(once.token.tolist())
    assert replayed == eager
    assert len({tuple(tokens) for tokens in replayed}) == 12


def test_a_token_depends_on_neither_batch_row_nor_batch_size(device):
    logits = normal(3, 5, 800)
    params = SampleParams.broadcast(5, top_p=0.9, seed=[1, 2, 3, 4, 5], request=[9, 8, 7, 6, 5])
    whole = Case(logits, params, group=2)
    whole.check(device)
    for row, order in enumerate([4, 2, 0, 1, 3]):
        alone = Case(
            logits[order : order + 1],
            SampleParams.broadcast(1, top_p=0.9, seed=int(params.seed[order]), request=int(params.request[order])),
            group=4,
            block=128,
        )
        alone.check(device)
        assert alone.token[0] == whole.token[order], row


def test_each_row_has_its_own_seed(device):
    logits = np.zeros((8, 4000), np.float32)
    case = Case(logits, SampleParams.broadcast(8, seed=np.arange(8)), group=1)
    device.run(case.launch)
    assert len(set(case.token.tolist())) == 8


@pytest.mark.parametrize("k", [2048, 6144])
def test_the_k_of_visual_tokens(device, k):
    case = Case(
        normal(k, 1, 9000),
        SampleParams.broadcast(1, top_k=k, top_p=0.8, temperature=2.0),
        normal(1, 1, 9000),
        2.0,
        group=2,
    )
    case.check(device)


@pytest.mark.parametrize("gpu", [Gpu((8, 7), 16, 20_000), Gpu((9, 0), 132, 40_000)], ids=["group", "cluster"])
def test_keys_that_do_not_fit_lie_in_global_memory(device, gpu):
    case = Case(normal(1, 2, 9000), SampleParams.broadcast(2, top_k=100, request=[1, 2]), group=4, gpu=gpu)
    assert case.plan.keys_bytes > 0
    case.check(device, "random")


def test_a_row_at_the_end_of_its_memory_is_not_read_beyond(device):
    for n in (9, 15, 63, 65):
        Case(normal(n, 1, n), SampleParams.broadcast(1), dtype="float16", group=2, block=32).check(device)


def test_a_segment_of_98304_tokens(device):
    params = SampleParams.broadcast(1, top_k=6144, top_p=0.8, temperature=1.0)
    Case(normal(5, 1, 98_304), params, normal(6, 1, 98_304), 2.0, dtype="bfloat16", group=8, block=64).check(
        device, "block last"
    )


# ---- a draw that falls on the border between two tokens


def scores_of_mass(mass):
    """Scores beside a largest of 0 whose weights add up to `mass` exactly."""
    scores = []
    while mass > 0:
        score = np.float32(math.log((mass + 0.5) / ONE))
        while (weight := weight_of(score)) > mass:
            score = np.nextafter(score, np.float32(-np.inf))
        scores.append(score)
        mass -= weight
    return scores


def weight_of(score):
    return int(weights_from_scores(np.array([[score]], np.float32), np.zeros(1, np.float32))[0, 0])


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize(
    ("largest_at", "group", "block"),
    [
        pytest.param(20, 1, 32, id="of tokens"),
        pytest.param(32, 1, 32, id="of rounds"),
        pytest.param(128, 1, 64, id="of warps"),
        pytest.param(128, 2, 32, id="of CTAs"),
    ],
)
def test_a_draw_on_a_border_takes_the_token_behind_it(device, largest_at, group, block, gpu):
    """The tokens in front weigh just what is drawn, so that the largest is the first whose prefix sum exceeds it."""
    num_tokens, num_cases = 256, 0
    for step in range(20):
        params = SampleParams.broadcast(1, seed=5, step=step)
        uniform = uniform_u64(params.seed, params.request, params.step, STREAM_TOKENS)
        if uniform[0] >> np.uint64(63):
            continue  # in front of one token of weight ONE there would have to be more than ONE
        mass, before = 0, -1
        while mass != before:
            mass, before = int(mulhi64(np.array([ONE + mass], np.uint64), uniform)[0]), mass
        front = scores_of_mass(mass)
        assert len(front) < 20
        logits = np.full((1, num_tokens), -np.inf, np.float32)
        logits[0, largest_at - len(front) : largest_at] = front
        logits[0, largest_at] = 0
        case = Case(logits, params, group=group, block=block, gpu=GPUS[gpu])
        case.check(device)
        assert case.trace["draw"][0] == mass
        assert case.token[0] == largest_at
        num_cases += 1
    assert num_cases > 5

"""The token engine against whole passes of PyTorch: any lengths, any cuts, any batch, one cache in place."""

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from illume_runtime import decoder as decoder_module
from illume_runtime import ort as ort_module
from illume_runtime import prefixes
from illume_runtime.bundle import Bundle
from illume_runtime.decoder import MIN_SHARED, TokenEngine
from illume_runtime.errors import InvalidBundleError
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling
from illume_runtime.stages import Stages
from illume_runtime.trace import NULL_TRACER

VOCABULARY = 556
TOLERANCE = 2e-5  # states of the size 1; float32 sums in another order


@pytest.fixture(scope="module")
def stages(bundle):
    return Stages(Bundle.open(bundle), "cpu", 1, NULL_TRACER)


@pytest.fixture
def engine(stages):
    return TokenEngine(stages)


@pytest.fixture
def prefills(monkeypatch):
    """(rows, longest row) of every prefill that the decoder computes."""
    seen = []
    run = decoder_module._run

    def recorded(cache, slots, rows, starts):
        seen.append((len(rows), max(map(len, rows))))
        return run(cache, slots, rows, starts)

    monkeypatch.setattr(decoder_module, "_run", recorded)
    return seen


def ids_of(seed, *lengths):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length) for length in lengths]


def expected_states(slow, rows):
    """The last hidden state of every sequence of ids."""
    model = slow.model.language_model
    with torch.no_grad():
        return np.stack([model(model.embed(torch.from_numpy(row)[None]))[0, -1].numpy() for row in rows])


def check(slow, engine, rows, pieces):
    """Prefill the rows, append the pieces, and compare every state."""
    capacity = max(map(len, rows)) + sum(piece.shape[1] for piece in pieces)
    hidden = engine.start([engine.embed(row) for row in rows], capacity)
    np.testing.assert_allclose(hidden, expected_states(slow, rows), atol=TOLERANCE)
    for piece in pieces:
        rows = [np.concatenate((row, more)) for row, more in zip(rows, piece, strict=True)]
        hidden = engine.step(piece, "text")
        np.testing.assert_allclose(hidden, expected_states(slow, rows), atol=TOLERANCE)


@pytest.mark.parametrize("lengths", [(1,), (8,), (63, 63), (3, 70, 17), (65, 1)], ids=str)
def test_states_equal_whole_passes_for_rows_of_any_length(slow, engine, lengths):
    rng = np.random.default_rng(1)
    pieces = [rng.integers(0, VOCABULARY, (len(lengths), new)) for new in (1, 2, 1, 4)]
    check(slow, engine, ids_of(0, *lengths), pieces)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    common=st.integers(0, 50),
    cuts=st.lists(st.integers(1, 5), max_size=4),
    seed=st.integers(0, 99),
)
def test_any_rows_with_any_common_beginning_after_any_other_batch(slow, engine, lengths, common, cuts, seed):
    rng = np.random.default_rng(seed)
    (beginning,) = ids_of(seed, common)
    rows = [np.concatenate((beginning, row)) for row in ids_of(seed + 1, *lengths)]
    check(slow, engine, rows, [rng.integers(0, VOCABULARY, (len(rows), new)) for new in cuts])


def test_equal_rows_are_computed_once(slow, engine, prefills):
    (row,) = ids_of(0, 20)
    check(slow, engine, [row] * 3, [np.array([[1], [2], [3]])])
    assert prefills == [(1, 20)]


def test_a_long_common_beginning_is_computed_once(slow, engine, prefills):
    (common,) = ids_of(0, MIN_SHARED + 10)
    rows = [np.concatenate((common, row)) for row in ids_of(1, 5, 9, 2)]
    check(slow, engine, rows, [np.array([[1], [2], [3]])])
    assert prefills == [(1, MIN_SHARED + 10), (3, 9)]


def test_a_short_common_beginning_is_not_worth_a_second_prefill(slow, engine, prefills):
    (common,) = ids_of(0, MIN_SHARED - 10)
    check(slow, engine, [np.concatenate((common, row)) for row in ids_of(1, 25, 30)], [])
    assert prefills == [(2, MIN_SHARED + 20)]


def test_a_constant_row_is_computed_once_for_all_calls(slow, engine, prefills):
    common, own, *others = ids_of(0, 6, 9, 14, 3, 40)
    constant = np.concatenate((common, own))
    for count, other in enumerate(others):
        rows = [np.concatenate((common, other)), constant]
        hidden = engine.start([engine.embed(row) for row in rows], 64, constant=[False, True])
        np.testing.assert_allclose(hidden, expected_states(slow, rows), atol=TOLERANCE)
        pieces = np.array([[1, 2], [3, 4]])
        rows = [np.concatenate((row, more)) for row, more in zip(rows, pieces, strict=True)]
        np.testing.assert_allclose(engine.step(pieces, "text"), expected_states(slow, rows), atol=TOLERANCE)
        assert prefills == [(1, 15)] * (count == 0) + [(1, len(other))]  # what both begin with is copied
        prefills.clear()
    engine.close()
    engine.start([engine.embed(constant)], 64, constant=[True])
    assert prefills == [(1, 15)]


def test_the_constant_rows_that_were_not_asked_for_give_way(engine, prefills, monkeypatch):
    monkeypatch.setattr(prefixes, "MAX_KEPT_PROMPTS", 2)
    a, b, c = (engine.embed(row) for row in ids_of(8, 5, 6, 7))
    for row in (a, b, a, c, a, b):
        engine.start([row], 64, constant=[True])
    assert [length for _, length in prefills] == [5, 6, 7, 6]
    assert len(engine._kept) == 2
    engine.start([a, b, c], 64, constant=[True] * 3)  # more in one batch than are kept
    assert len(engine._kept) == 2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=4),
    common=st.integers(0, 50),
    calls=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_sharing_changes_no_bit(stages, lengths, common, calls, seed):
    shared, plain = TokenEngine(stages), TokenEngine(stages)
    (beginning,) = ids_of(seed, common)
    constant = [is_constant for _, is_constant in lengths]
    for call in range(calls):
        own = ids_of(seed + 1, *(length for length, _ in lengths))
        own = [row if is_constant else np.append(row, call) for row, is_constant in zip(own, constant, strict=True)]
        rows = [shared.embed(np.concatenate((beginning, row))) for row in own]
        got = [shared.start(rows, 128, constant=constant)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoder_module, "MIN_SHARED", 10**6)
            expected = [plain.start(rows, 128)]
        for token in range(3):
            tokens = np.full((len(rows), 1 + token), token)
            got.append(shared.step(tokens, "text").copy())
            expected.append(plain.step(tokens, "text").copy())
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("num_rows", [2, 3, 7])
def test_a_row_of_a_batch_is_what_it_is_alone(engine, num_rows):
    rows = [engine.embed(row) for row in ids_of(3, *range(20, 20 + num_rows))]
    together = engine.start(rows, 64).copy()
    alone = np.concatenate([engine.start([row], 64) for row in rows])
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)


@pytest.mark.parametrize("guidance", [0.0, 2.0, 7.5])
def test_guidance_in_one_batch_is_that_of_two_separate_passes(engine, guidance):
    cond, uncond = (engine.embed(row) for row in ids_of(4, 12, 7))
    tokens = np.array([[530, 1]])
    engine.start([cond, uncond], 64)
    together = engine.logits("level0", engine.step(np.repeat(tokens, 2, axis=0), "level0"), guidance).copy()
    sides = []
    for row in (cond, uncond):
        engine.start([row], 64)
        sides.append(engine.logits("level0", engine.step(tokens, "level0"), 1.0).copy())
    # the difference of two roundings, multiplied by the guidance
    np.testing.assert_allclose(together, sides[1] + guidance * (sides[0] - sides[1]), atol=1e-4)


def test_the_cache_is_bound_once_and_never_moves(engine):
    (row,) = ids_of(5, 30)
    engine.start([engine.embed(row)], 64)
    engine.step(np.array([[1]]), "text")
    arrays = engine._main.views(1, 64)
    bound = engine._main.bound(1, 64, 1)
    addresses = {name: array.ctypes.data for name, array in arrays.items()}
    for token in range(20):
        before = {name: array.copy() for name, array in arrays.items()}
        engine.step(np.array([[token]]), "text")
        assert engine._main.bound(1, 64, 1) is bound
        for name, array in engine._main.views(1, 64).items():
            assert array.ctypes.data == addresses[name]
            changed = np.flatnonzero((array != before[name]).any(axis=(0, 1, 3)))
            assert changed.tolist() == [31 + token]  # the new token's slot, written where it stands


def test_onnx_runtime_copies_no_cache(bundle, monkeypatch, capfd):
    monkeypatch.setattr(ort_module, "LOG_SEVERITY", 2)  # warnings: it warns of every copy
    engine = TokenEngine(Stages(Bundle.open(bundle), "cpu", 1, NULL_TRACER))
    engine.start([engine.embed(row) for row in ids_of(6, 9, 5)], 64)
    engine.step(np.array([[1], [2]]), "text")
    assert "copying past_cache" not in capfd.readouterr().err


def test_memory_is_constant_over_many_requests(bundle, pictures):
    process = psutil.Process()

    def work(times):
        for seed in range(times):
            pipeline.draw("a red circle", n=2, sampling=ImageSampling(seed=seed))
            pipeline.describe(pictures[seed % 4], sampling=TextSampling(seed=seed, temperature=1.0))
        return process.memory_info().rss

    with Pipeline.load(bundle, threads=1) as pipeline:
        work(5)
        engine = pipeline._model.engine
        buffers = [buffer.ctypes.data for buffer in engine._main._buffers]
        before = work(5)
        after = work(30)
        assert [buffer.ctypes.data for buffer in engine._main._buffers] == buffers
    assert after - before < 2**20  # pages of the allocator; a leaked cache of one request alone is 100 kB, 30 times


def test_a_cache_of_a_fixed_length_gives_the_same_tokens(changed_bundle, bundle, pipeline):
    manifest = Bundle.open(bundle).manifest
    keys = {}
    for kind, ports in (("inputs", manifest.stages["decoder"].inputs), ("outputs", manifest.stages["decoder"].outputs)):
        for i, port in enumerate(ports):
            if "cache" in port.name:
                keys[f"stages.decoder.{kind}.{i}.shape.2"] = manifest.model.max_context
    sampling = ImageSampling(seed=4, steps=1)
    with Pipeline.load(changed_bundle(keys), threads=1) as fixed:
        assert fixed._model.engine._static_slots == manifest.model.max_context
        got = fixed.draw("a star", n=2, sampling=sampling)
    expected = pipeline.draw("a star", n=2, sampling=sampling)
    assert [p.codes[0].tolist() for p in got] == [p.codes[0].tolist() for p in expected]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stages.decoder.inputs.2.shape.2": 64}, r"the caches have .* slots, expected one number for all"),
        ({"stages.decoder.inputs.2.shape.1": 3}, r"key_cache_0 has the shape \['B', 3, 'S', 16\], expected \['B', 2"),
        ({"stages.decoder.inputs.2.name": "past"}, r"key_cache_0 has the shape \[\]"),
        ({f"stages.decoder.inputs.{i}.shape.2": 64 for i in range(2, 6)}, "the caches have 64 slots, expected 160"),
        ({"model.num_layers": 3}, r"key_cache_2 has the shape \[\], expected \['B', 2, 'S', 16\]"),
        ({"model.head_dim": 8}, r"expected \['B', 2, 'S', 8\]"),
    ],
    ids=["mixed", "heads", "name", "too short", "layers", "head width"],
)
def test_a_decoder_that_does_not_fit_the_model_is_refused(changed_bundle, keys, message):
    with pytest.raises(InvalidBundleError, match=f"stages.decoder: .*{message}"):
        Pipeline.load(changed_bundle(keys))


def test_an_empty_prompt_is_refused(engine):
    with pytest.raises(InvalidBundleError, match="a prompt is empty; expected at least one token"):
        engine.start([np.zeros((0, 48), np.float32)], 8)

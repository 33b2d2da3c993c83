"""What the reference implementation computed, on both sides: with the committed arrays, and with all of them.

The committed arrays are those of the language model and the vision tower, whose weights are committed too. All of them
need ILLUME_REFERENCE. Tolerances are at most those of the reference's manifest.
"""

from __future__ import annotations

import numpy as np
import pytest
from plus_checkpoint import DATA
from reference_sides import Setup, Side, anchored, close, picture, sequence

from illume_kernels.oracle import repetition_penalty

PENALTY, GUIDANCE = 1.05, 2.0
LOGITS = {"atol": 1e-3, "rtol": 1e-4}
SIZE = "256x256"


@pytest.fixture(params=["committed", "whole"])
def setup(request: pytest.FixtureRequest) -> Setup:
    found: Setup = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["torch", "onnx"])
def side(request: pytest.FixtureRequest, setup: Setup) -> Side:
    return setup.sides[request.param]


def margins(scores: np.ndarray) -> np.ndarray:
    """By how much the best of each row is ahead of the second."""
    ordered = np.sort(scores, axis=-1)
    found: np.ndarray = ordered[..., -1] - ordered[..., -2]
    return found


@pytest.mark.parametrize("kind", ["und", "gen"])
@pytest.mark.parametrize("name", ["square", "landscape", "portrait"])
def test_pixels(setup: Setup, kind: str, name: str) -> None:
    expected = setup.arrays.get(f"1/{kind}_{name}_u8")
    if expected is None:
        pytest.skip("not among the committed arrays")
    vision = setup.pipeline._model.vision
    feeds, _ = vision._feeds(picture(name) if kind == "und" else anchored(setup, name))  # type: ignore[attr-defined]
    levels = np.rint((feeds["pixel_values"][0] + 1) * 127.5)
    assert np.abs(levels - expected).max() <= 1


@pytest.mark.parametrize("name", ["und_square", "und_landscape", "und_portrait", "gen_landscape"])
def test_pictures_as_the_language_model_sees_them(setup: Setup, side: Side, name: str) -> None:
    expected = setup.arrays.get(f"2/{name}_image_embeds")
    if expected is None:
        pytest.skip("not among the committed arrays")
    kind, shape = name.split("_")
    close(
        side.picture(picture(shape) if kind == "und" else anchored(setup, shape)), expected, atol=3e-4
    )  # as the manifest says


def test_control_tokens(setup: Setup, side: Side) -> None:
    controls = setup.pipeline.bundle.vocabulary.controls
    names = ("start_of_image", "end_of_image", "end_of_line", "start_of_level0", "end_of_level0")
    ids = [controls[name] for name in (*names, "start_of_level1", "end_of_level1")]
    np.testing.assert_array_equal(side.embed(ids), setup.arrays["2/special_token_embeds"])


@pytest.mark.parametrize("name", ["square", "landscape", "portrait"])
def test_answers(setup: Setup, side: Side, name: str) -> None:
    arrays, ids = setup.arrays, setup.prompts[f"understanding_{name}"]
    tokens = arrays[f"5/{name}_tokens"].astype(np.int64)
    logits = side.logits(sequence(side, ids, picture(name), tokens[:-1]))
    said, expected = logits[-len(tokens) :], arrays[f"5/{name}_logits_all"]
    close(said[0], arrays[f"5/{name}_prefill_logits"], **LOGITS)
    close(said if len(expected) == len(tokens) else said[[0, len(tokens) // 2, -1]], expected, **LOGITS)
    if name == "landscape":
        prompt = logits[: len(logits) - len(tokens) + 1]
        close(prompt[::16], arrays["5/landscape_prefill_logits_every16"], **LOGITS)
    seen = np.array([np.pad(tokens[:k], (0, len(tokens) - k), constant_values=-1) for k in range(len(tokens))])
    scores = repetition_penalty(said, seen, PENALTY)
    controls = setup.pipeline.bundle.vocabulary.controls
    levels = [f"{end}_of_level{level}" for end in ("start", "end") for level in (0, 1)]
    scores[:, [controls[name] for name in ("end_of_line", *levels)]] = -np.inf
    scores[:, setup.pipeline.bundle.vocabulary.segment("level0").start :] = -np.inf  # they stand in pictures only
    np.testing.assert_array_equal(scores.argmax(axis=1), tokens)
    close(margins(scores), arrays[f"5/{name}_margins"], atol=2e-3)


def branches(setup: Setup, side: Side, ids: list[int], tokens: np.ndarray) -> np.ndarray:
    """Logits [N, V] before each token of a drawing."""
    found: np.ndarray = side.logits(sequence(side, ids, None, tokens[:-1]))[-len(tokens) :]
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def test_both_sides_of_guidance_at_every_kind_of_step(setup: Setup, side: Side) -> None:
    arrays = setup.arrays
    tokens, steps = arrays["6/tokens"].astype(np.int64), arrays["6/steps"]
    cond = branches(setup, side, setup.prompts["t2i_cond"], tokens)[steps]
    uncond = branches(setup, side, setup.prompts["t2i_uncond"], tokens)[steps]
    close(cond, arrays["6/cond_logits"], **LOGITS)
    run = ~np.isnan(arrays["6/uncond_logits"]).any(axis=1)
    assert run.sum() == len(steps) - 2  # before and behind the picture there is no guidance
    close(uncond[run], arrays["6/uncond_logits"][run], **LOGITS)
    seen = np.array([np.pad(tokens[:k], (0, len(tokens) - k), constant_values=-1) for k in steps])
    penalized = repetition_penalty(cond, seen, PENALTY)
    close(penalized, arrays["6/cond_scores_in"], **LOGITS)
    given, other = log_softmax(penalized), log_softmax(uncond)
    scores = other + GUIDANCE * (given - other)
    close(scores[run], arrays["6/cfg_scores"][run], atol=3e-3)
    for name in ("greedy_processed", "greedy_final"):
        for row, expected in zip(scores[run], arrays[f"6/{name}"][run], strict=True):
            legal = np.isfinite(expected)
            close(row[legal], expected[legal], atol=3e-3)
            assert np.flatnonzero(legal).tolist() == legal_ids(setup, int(np.flatnonzero(legal)[0]))


def legal_ids(setup: Setup, first: int) -> list[int]:
    """All ids of the level that the first is of; a control token alone."""
    for segment in setup.pipeline.bundle.vocabulary.segments:
        if segment.name != "text" and segment.start == first:
            return list(range(segment.start, segment.end))
    return [first]


DRAWINGS = {
    "": (GUIDANCE, PENALTY),
    "cfg1_": (1.0, PENALTY),
    "norep_": (GUIDANCE, 1.0),
    "cfg1_norep_": (1.0, 1.0),
}


@pytest.mark.parametrize(("name", "guidance", "penalty"), [(n, *v) for n, v in DRAWINGS.items()], ids=DRAWINGS)
def test_margins_of_every_code(setup: Setup, side: Side, name: str, guidance: float, penalty: float) -> None:
    tokens, expected = (setup.arrays[f"6/{name}{what}"] for what in ("tokens", "margins"))
    check_margins(setup, side, setup.prompts["t2i_cond"], tokens.astype(np.int64), expected, guidance, penalty)


@pytest.mark.parametrize("row", [0, 1])
def test_a_batch_of_two(setup: Setup, side: Side, row: int) -> None:
    arrays, model = setup.arrays, setup.pipeline._model
    padded = arrays["6/batch2_input_ids"][row]
    ids = padded[int(np.argmax(padded != model.bundle.vocabulary.controls["pad"])) :].tolist()
    text = ("a red circle over a blue square", "two dogs")[row]
    (run,) = model.writer.draw(text, model.schedules[SIZE].tag).conditional.parts
    assert list(run.ids) == ids  # type: ignore[union-attr]
    tokens, expected = arrays["6/batch2_tokens"][row].astype(np.int64), arrays["6/batch2_margins"][:, row]
    check_margins(setup, side, ids, tokens, expected, GUIDANCE, PENALTY)


def check_margins(
    setup: Setup, side: Side, ids: list[int], tokens: np.ndarray, expected: np.ndarray, guidance: float, penalty: float
) -> None:
    """The best code of every step, and by how much it is ahead."""
    cond = branches(setup, side, ids, tokens)
    uncond = branches(setup, side, setup.prompts["t2i_uncond"], tokens)
    compared = 0
    for level in (0, 1):
        segment = setup.pipeline.bundle.vocabulary.segment(f"level{level}")
        columns = slice(segment.start, segment.end)
        (steps,) = np.nonzero((tokens >= segment.start) & (tokens < segment.end))
        seen = np.array([np.pad(tokens[:k], (0, len(tokens) - k), constant_values=-1) for k in steps]) - segment.start
        given = repetition_penalty(cond[steps, columns], seen, penalty)
        scores = uncond[steps, columns] + guidance * (given - uncond[steps, columns])
        sure = expected[steps] > 1e-3  # nearer ones are equal within float32
        np.testing.assert_array_equal(scores.argmax(axis=1)[sure], tokens[steps][sure] - segment.start)
        close(margins(scores), expected[steps], atol=3e-3)
        compared += len(steps)
    assert compared == 9 * 9 + 16 * 16


@pytest.mark.parametrize("name", ["s1", "s2"])
def test_sampled_scores(whole: Setup, name: str) -> None:
    """The committed ones are filtered anew in `test_plus_pipeline.py`; they are these."""
    with np.load(DATA / "tokens.npz") as arrays:
        for what in ("processed", "final"):
            np.testing.assert_array_equal(arrays[f"{name}_{what}"], whole.arrays[f"6/{name}_{what}"])


@pytest.mark.parametrize(("name", "guidance"), [("", GUIDANCE), ("cfg1_", 1.0)])
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_margins_of_an_edit(whole: Setup, kind: str, name: str, guidance: float) -> None:
    side, image = whole.sides[kind], anchored(whole, "landscape")
    tokens = whole.arrays[f"7/{name}tokens"][:1000].astype(np.int64)
    expected = whole.arrays[f"7/{name}margins"][:1000]
    cond, uncond = (
        side.logits(sequence(side, whole.prompts[f"edit_{branch}"], image, tokens[:-1]))[-len(tokens) :]
        for branch in ("cond", "uncond")
    )
    for level in (0, 1):
        segment = whole.pipeline.bundle.vocabulary.segment(f"level{level}")
        columns = slice(segment.start, segment.end)
        (steps,) = np.nonzero((tokens >= segment.start) & (tokens < segment.end))
        seen = np.array([np.pad(tokens[:k], (0, len(tokens) - k), constant_values=-1) for k in steps]) - segment.start
        given = repetition_penalty(cond[steps, columns], seen, PENALTY)
        scores = uncond[steps, columns] + guidance * (given - uncond[steps, columns])
        sure = expected[steps] > 1e-3
        np.testing.assert_array_equal(scores.argmax(axis=1)[sure], tokens[steps][sure] - segment.start)
        close(margins(scores), expected[steps], atol=3e-3)


def test_the_other_chain_of_the_reference_draws_the_same(setup: Setup) -> None:
    np.testing.assert_array_equal(setup.arrays["6/app_tokens"], setup.arrays["6/tokens"])


@pytest.mark.parametrize("name", ["cond", "uncond"])
def test_an_edit_begins(setup: Setup, side: Side, name: str) -> None:
    start = [setup.pipeline.bundle.vocabulary.control("start_of_image")] if name == "uncond" else []
    embeds = sequence(side, setup.prompts[f"edit_{name}"], anchored(setup, "landscape"), start)
    close(side.logits(embeds)[-1], setup.arrays[f"7/{name}_prefill_logits"], **LOGITS)


def test_the_scheduler_and_the_size(setup: Setup) -> None:
    from illume_runtime.solver import solver_table

    scheduler, arrays = setup.pipeline.bundle.scheduler, setup.arrays
    table = solver_table(scheduler, 4)
    assert [step.time for step in table.steps] == arrays["8/timesteps"].tolist()
    sigmas = arrays["8/sigmas"].astype(np.float64)
    np.testing.assert_allclose([step.b for step in table.steps], np.diff(sigmas), rtol=2e-5)
    assert arrays["8/time_ids"].tolist() == [[0, 0, 0, 0, 0, scheduler.size_ids[SIZE]]] * 2  # type: ignore[union-attr]

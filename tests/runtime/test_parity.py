"""Whole requests against the slow model, token by token: compiled schedule, cache, guidance, sampling, prompts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illume_kernels.params import SampleParams
from illume_runtime.drawing import draw_codes
from illume_runtime.pipeline import ImageSampling, TextSampling
from illume_runtime.programs import Resolution
from illume_runtime.schedule import schedule_from_resolution
from illume_runtime.token_engine import TokenRequest
from illume_runtime.trace import NULL_TRACER
from illume_runtime.typed_json import value_from_json

GREEDY_IMAGE = ImageSampling(temperature=0.0)
FILTERS = {
    "greedy": {"temperature": 0.0},
    "all": {"temperature": 1.0},
    "hot": {"temperature": 3.0, "top_p": 0.9},
    "top-k": {"temperature": 1.5, "top_k": 5},
    "min-p": {"temperature": 2.0, "min_p": 0.05},
}


def user(text, *pictures):
    return ("user", text, *pictures)


def slow_drawing(slow, turn, guidance, seed, **filters):
    sides = [slow.prompt(turn, unconditional=side) for side in (False, True)]
    return slow.draw(*sides, SampleParams.broadcast(1, seed=seed, **filters), guidance)


def codes_of(picture):
    (codes,) = picture.codes
    return codes.ravel().tolist()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0, 7.5])
@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_drawn_tokens_are_those_of_the_masked_whole_vocabulary(pipeline, slow, filters, guidance):
    sampling = ImageSampling(guidance=guidance, seed=11, steps=1, **filters)
    for prompt in ("a", "blue squares"):
        (picture,) = pipeline.draw(prompt, sampling=sampling)
        ids = slow_drawing(slow, user(prompt), guidance, 11, **filters)
        assert codes_of(picture) == slow.codes(ids)
        assert pipeline._model.schedule.tokens_of(picture.codes).tolist() == ids


@pytest.mark.parametrize("filters", [FILTERS["greedy"], FILTERS["all"]], ids=["greedy", "all"])
def test_edited_tokens_are_those_of_the_masked_whole_vocabulary(pipeline, slow, pictures, filters):
    sampling = ImageSampling(guidance=3.0, seed=5, steps=1, **filters)
    edited = [codes_of(pipeline.edit(one, "make it red", sampling=sampling)[0]) for one in pictures]
    assert edited == [slow.codes(slow_drawing(slow, user("make it red", one), 3.0, 5, **filters)) for one in pictures]
    assert len({tuple(codes) for codes in edited}) > 1  # the picture matters


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
def test_answers_are_those_of_the_masked_whole_vocabulary(pipeline, slow, pictures, filters, penalty):
    sampling = TextSampling(repetition_penalty=penalty, seed=3, max_tokens=16, **filters)
    params = SampleParams.broadcast(1, seed=3, **filters)
    answers = [pipeline.describe(one, "which shapes?", sampling=sampling).token_ids for one in pictures]
    expected = [
        tuple(slow.say(slow.prompt(user("which shapes?", one)), params, 16, penalty=penalty)) for one in pictures
    ]
    assert answers == expected
    assert len(set(answers)) > 1


def test_different_prompts_and_seeds_draw_different_pictures(pipeline):
    drawn = [
        codes_of(pipeline.draw(prompt, sampling=ImageSampling(seed=seed, steps=1))[0])
        for prompt in ("a", "blue squares")
        for seed in (1, 2)
    ]
    assert len({tuple(codes) for codes in drawn}) == 4


def test_reconstruction_takes_the_tokenizer_s_codes(pipeline, slow, pictures):
    import torch

    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        expected = slow.model.image_tokenizer.encode(slow.model.vision_encoder(pixels)).numpy()
    made = pipeline.reconstruct_many(list(pictures))
    assert np.array_equal(np.stack([picture.codes[0] for picture in made]).reshape(expected.shape), expected)
    assert len({tuple(codes_of(picture)) for picture in made}) > 1


FORCE = st.lists(st.sampled_from(["start_of_image", "end_of_line", "end_of_image", "pad"]), min_size=1, max_size=3)
PIECES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None)
@given(
    counts=PIECES,
    forced=st.lists(st.none() | FORCE, min_size=5, max_size=5),
    repeat=st.integers(1, 2),
    guidance=st.sampled_from([1.0, 2.5]),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_grammar_is_drawn_as_the_masked_whole_vocabulary_draws_it(
    pipeline, slow, counts, forced, repeat, guidance, seed
):
    body = []
    for names, count in zip(forced, counts, strict=False):
        body += [{"force": names}] if names else []
        body.append({"sample": "level0", "count": count})
    program = [{"repeat": repeat, "body": body}, *([{"force": forced[-1]}] if forced[-1] else [])]
    total = repeat * sum(counts)
    data = {**slow.data["grammar"]["image"]["resolutions"][0], "grids": [[1, total]], "output": program}
    schedule = schedule_from_resolution(value_from_json(Resolution, data, ""), pipeline.bundle.vocabulary)
    prompts = pipeline._model.writer.draw("a star")
    sides = [pipeline._model.embeds(side, []) for side in (prompts.conditional, prompts.unconditional)]
    (codes,) = draw_codes(
        pipeline._model.engine,
        [TokenRequest(schedule, *sides, 0)],
        ImageSampling(temperature=1.0, guidance=guidance, seed=seed),
        tracer=NULL_TRACER,
        code_color=None,
        on_progress=None,
        cancel=None,
    )
    prompts = [slow.prompt(user("a star"), unconditional=side) for side in (False, True)]
    ids = slow.draw(*prompts, SampleParams.broadcast(1, temperature=1.0, seed=seed), guidance, program)
    assert schedule.tokens_of(codes).tolist() == ids

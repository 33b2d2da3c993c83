"""Sampling options: what is refused, and where what is not given comes from."""

import dataclasses
import math

import numpy as np
import pytest

from illume_kernels.params import SampleParams
from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.sampling import ImageSampling, TextSampling, filtered, params_of_rows, with_defaults

BOTH = [
    ("temperature", (-0.1, 100.5, math.nan, math.inf, "1", True), (0, 0.0, 1, 100.0)),
    ("top_k", (-1, 1.5, math.nan, 2**31 + 1, False), (0, 1, 10**6)),
    ("top_p", (0.0, -1.0, 1.01, 2, math.nan), (1e-6, 0.5, 1, 1.0)),
    ("min_p", (-0.1, 1.1, math.nan), (0.0, 1.0)),
    ("seed", (-1, 2**64, 1.0, math.nan, "7", True), (0, 2**64 - 1)),
]
TEXT = [
    *BOTH,
    ("repetition_penalty", (0.0, -1.0, 101, math.nan, math.inf), (0.5, 1, 2.0)),
    ("max_tokens", (0, -1, 1.0, 2**21), (1, 4096)),
]
IMAGE = [
    *BOTH,
    ("guidance", (-0.1, 101, math.nan, math.inf, -math.inf), (0.0, 1, 7.5)),
    ("diffusion_guidance", (-1, 1e9, math.nan), (0, 3.0)),
    ("steps", (0, -1, 101, 2.0, math.nan), (1, 100)),
]
CASES = [
    pytest.param(kind, name, bad, good, id=f"{kind.__name__}.{name}")
    for kind, table in ((TextSampling, TEXT), (ImageSampling, IMAGE))
    for name, bad, good in table
]


@pytest.mark.parametrize(("kind", "name", "bad", "good"), CASES)
def test_values_out_of_range_are_named_and_the_others_taken(kind, name, bad, good):
    for value in bad:
        with pytest.raises(UsageError, match=rf"^{name}: got .*, expected a (whole )?number "):
            kind(**{name: value})
    for value in good:
        assert getattr(kind(**{name: value}), name) == value


def test_what_is_filtered_is_drawn_again_from_what_is_left():
    logits = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]], np.float32)
    params = SampleParams.broadcast(2, temperature=[0.5, 0.0], top_k=2)
    left = filtered(logits, params)
    np.testing.assert_array_equal(left[0], [6.0, 4.0, -np.inf, -np.inf])
    np.testing.assert_array_equal(left[1], logits[1])  # temperature 0: the likeliest stays the likeliest


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_double_sampling_is_on_or_off(value):
    with pytest.raises(UsageError, match=r"double_sampling: got .*, expected True or False"):
        ImageSampling(double_sampling=value)


def test_an_unknown_option_is_no_option():
    with pytest.raises(TypeError, match="stepz"):
        ImageSampling(stepz=3)


@pytest.mark.parametrize("kind", [TextSampling, ImageSampling])
def test_what_is_given_stays_and_the_rest_comes_from_the_bundle(kind):
    defaults = {"task": {"temperature": 0.5, "top_k": 3}, "other": {"top_p": 0.1}}
    full = with_defaults(kind(temperature=0.0, seed=4), defaults, "task")
    assert (full.temperature, full.top_k, full.top_p, full.min_p, full.seed) == (0.0, 3, 1.0, 0.0, 4)
    of_the_bundle = {"steps", "quality", "temperature_level1", "top_k_level1", "top_p_level1"}  # or of the first level
    filled = dataclasses.asdict(with_defaults(kind(), {}, "task"))
    assert {name for name, value in filled.items() if value is None} == of_the_bundle & set(filled)


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"temprature": 1.0}, "draw has temprature, expected some of diffusion_guidance, guidance"),
        ({"guidance": -1.0}, r"generation_config.json: draw: guidance: got -1.0, expected a number from 0 to 100"),
        ({"steps": 1000}, "draw: steps: got 1000"),
        ({"top_k": 1.5}, "draw: top_k: got 1.5, expected a whole number"),
    ],
)
def test_wrong_defaults_are_the_bundle_s_fault(defaults, message):
    with pytest.raises(InvalidBundleError, match=message):
        with_defaults(ImageSampling(), {"draw": defaults}, "draw")


def test_rows_share_the_seed_and_differ_in_their_number():
    params = params_of_rows(with_defaults(ImageSampling(seed=2**64 - 1), {}, "draw"), [3, 0, 9])
    assert params.request.tolist() == [3, 0, 9]
    assert params.seed.tolist() == [2**64 - 1] * 3
    assert params.at_step(7).step.tolist() == [7, 7, 7]
    assert params.seed.dtype == np.uint64


LEVELS = {"draw": {"top_k": 100, "top_k_level1": 300, "top_p": 0.9, "temperature": 1.0}}


def test_the_second_level_has_defaults_of_its_own():
    full = with_defaults(ImageSampling(), LEVELS, "draw")
    assert (full.top_k, full.top_k_level1, full.top_p_level1) == (100, 300, None)
    assert (full.of_level(0).top_k, full.of_level(1).top_k, full.of_level(1).top_p) == (100, 300, 0.9)


def test_what_a_caller_chooses_moves_the_second_level_in_proportion():
    full = with_defaults(ImageSampling(top_k=20, top_p=0.5), LEVELS, "draw")
    assert (full.of_level(1).top_k, full.of_level(1).top_p) == (60, 0.5)
    own = with_defaults(ImageSampling(top_k=20, top_k_level1=7), LEVELS, "draw")
    assert own.of_level(1).top_k == 7
    assert with_defaults(ImageSampling(top_k=20), {}, "draw").of_level(1).top_k == 20


def test_an_unknown_quality_is_named():
    with pytest.raises(UsageError, match="quality: got 'fine', expected one of draft, standard, best"):
        ImageSampling(quality="fine")

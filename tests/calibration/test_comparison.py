import numpy as np
import pytest

from illume_calibration.comparison import MAX_DB, SignalNoise, divergence, psnr_db, ssim
from illume_calibration.reservoir import Reservoir

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (40, 30, 3), np.uint8)


def test_equal_arrays_are_equal():
    sums = SignalNoise()
    sums.add(np.ones(5, np.float32), np.ones(5, np.float32))
    assert (sums.sqnr_db, sums.cosine) == (MAX_DB, 1.0)
    assert psnr_db(PICTURE, PICTURE) == MAX_DB
    assert ssim(PICTURE, PICTURE) == pytest.approx(1.0)


def test_sqnr_and_cosine_of_known_noise():
    sums = SignalNoise()
    for signal, noise in ((3.0, 0.3), (4.0, -0.4)):  # in parts: a tenth of the amplitude is 20 dB
        sums.add(np.full(1, signal, np.float32), np.full(1, signal + noise, np.float32))
    assert sums.sqnr_db == pytest.approx(20.0, abs=1e-4)
    assert sums.cosine == pytest.approx((3 * 3.3 + 4 * 3.6) / (5 * np.hypot(3.3, 3.6)), abs=1e-6)


def test_psnr_of_a_shift():
    assert psnr_db(np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 110, np.uint8)) == pytest.approx(
        28.13, abs=0.01
    )


def test_ssim_falls_with_noise_and_less_with_light():
    noisy = np.clip(PICTURE + RNG.normal(0, 60, PICTURE.shape), 0, 255).astype(np.uint8)
    lighter = np.clip(PICTURE.astype(int) + 10, 0, 255).astype(np.uint8)
    assert ssim(PICTURE, noisy) < 0.9 < ssim(PICTURE, lighter) < 1.0


def test_divergence_is_that_of_the_definition():
    a, b = (RNG.standard_normal((3, 7)).astype(np.float32) * 2 for _ in range(2))
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    assert np.allclose(divergence(a, b), (p * np.log(p / q)).sum(axis=1))
    assert np.allclose(divergence(a, a + 5), 0.0)


def call(number, tokens=1):
    return {"inputs_embeds": np.full((1, tokens, 2), number, np.float32)}, {"hidden": np.zeros((1, 2), np.float32)}


def test_a_reservoir_is_bounded_fair_and_the_same_for_the_same_seed():
    def kept(seed, count=300):
        reservoir = Reservoir(seed, per_stratum=4)
        for number in range(count):
            reservoir.offer("decoder", "draw", *call(number))
        return [int(c.inputs["inputs_embeds"][0, 0, 0]) for c in reservoir.calls("decoder")]

    assert kept(1) == kept(1) != kept(2)
    numbers = np.array([kept(seed) for seed in range(60)])
    assert numbers.shape == (60, 4)
    assert abs(numbers.mean() - 149.5) < 4 * 86.6 / np.sqrt(240)  # uniform over 0..299: 4 standard errors


def test_what_is_rare_has_a_reservoir_of_its_own():
    reservoir = Reservoir(0, per_stratum=2)
    for number in range(50):
        reservoir.offer("decoder", "draw", *call(number))
    reservoir.offer("decoder", "draw", *call(99, tokens=80))
    assert sorted(c.inputs["inputs_embeds"].shape[1] for c in reservoir.calls("decoder")) == [1, 1, 80]


def test_a_reservoir_keeps_to_its_bytes():
    reservoir = Reservoir(0, per_stratum=1000, max_bytes=200)
    for number in range(100):
        reservoir.offer("decoder", "draw", *call(number))
    assert sum(c.num_bytes for c in reservoir.calls("decoder")) <= 216

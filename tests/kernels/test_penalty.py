import numpy as np
import pytest

from illume_kernels.oracle import repetition_penalty


def rows(*values):
    return np.array(values, np.float32)


def test_positive_logits_are_divided_and_negative_ones_multiplied():
    logits = rows([2, -2, 0, 4], [1, 1, 1, -1])
    out = repetition_penalty(logits, np.array([[0, 1, 2], [3, 3, -1]]), 2.0)
    assert out.tolist() == [[1, -4, 0, 4], [1, 1, 1, -2]]
    assert logits[0, 0] == 2


def test_one_row_without_a_batch():
    assert repetition_penalty(rows(3, -3), np.array([0, 1, 1]), 1.5).tolist() == [2, -4.5]


def test_each_row_has_its_penalty():
    out = repetition_penalty(rows([2, 2], [2, 2]), np.array([[0], [1]]), np.array([2, 4], np.float32))
    assert out.tolist() == [[1, 2], [2, 0.5]]


def test_ids_outside_the_slice_and_padding_are_passed_over():
    assert repetition_penalty(rows([2, 2]), np.array([[-1, 2, 515]]), 2.0).tolist() == [[2, 2]]
    assert repetition_penalty(rows([2, 2]), np.zeros((1, 0), np.int64), 2.0).tolist() == [[2, 2]]


def test_equal_to_gather_and_scatter():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 50)).astype(np.float32)
    seen = rng.integers(0, 50, (3, 30))
    expected = logits.copy()
    scores = np.take_along_axis(logits, seen, axis=1)
    np.put_along_axis(expected, seen, np.where(scores < 0, scores * np.float32(1.3), scores / np.float32(1.3)), axis=1)
    assert repetition_penalty(logits, seen, 1.3).tobytes() == expected.tobytes()


@pytest.mark.parametrize("penalty", [0.0, -1.0, np.nan])
def test_a_penalty_that_is_not_positive_is_refused(penalty):
    with pytest.raises(ValueError, match=r"expected > 0; use 1 to switch it off"):
        repetition_penalty(rows([1]), np.array([[0]]), penalty)


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match=r"logits \(2, 1\) and seen_ids \(1, 1\).*pad the shorter rows"):
        repetition_penalty(rows([1], [2]), np.array([[0]]), 1.1)

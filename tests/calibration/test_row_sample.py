import numpy as np
import pytest

import illume_calibration.row_sample as row_sample
from illume_calibration.row_sample import RowSample

STREAM = np.arange(3000, dtype=np.float32)[:, None] * np.ones(3, np.float32)


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_what_is_kept_does_not_depend_on_how_the_stream_is_cut(pieces):
    whole, cut = RowSample(), RowSample()
    whole.add(STREAM)
    for piece in np.array_split(STREAM, pieces):
        cut.add(piece)
    assert whole.seen == cut.seen == 3000
    assert len(whole.rows) == row_sample.MAX_ROWS
    assert np.array_equal(whole.rows, cut.rows)
    assert np.array_equal(whole.numbers, cut.numbers)


def test_few_rows_are_all_kept():
    sample = RowSample()
    sample.add(STREAM[:10].reshape(2, 5, 3))
    assert sorted(sample.rows[:, 0]) == list(range(10))


def test_every_part_of_the_stream_is_as_likely():
    sample = RowSample()
    sample.add(STREAM)
    counts, _ = np.histogram(sample.rows[:, 0], bins=10, range=(0, 3000))
    expected = row_sample.MAX_ROWS / 10
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)  # five standard deviations of a count


def test_wide_rows_are_fewer(monkeypatch):
    monkeypatch.setattr(row_sample, "MAX_BYTES", 4 * 3 * 20)
    sample = RowSample()
    sample.add(STREAM)
    assert sample.rows.shape == (20, 3)
    assert len(set(sample.rows[:, 0])) == 20

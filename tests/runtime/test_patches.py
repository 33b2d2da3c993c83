"""Pictures of any size as patches, held to what the reference implementation does with sixty sizes."""

import json
from pathlib import Path

import numpy as np
import pytest

from illume_runtime.errors import UsageError
from illume_runtime.manifest import AnySizePreprocessing, PatchSpec
from illume_runtime.patches import any_size, merged_grid, nearest_anchor, patch_rope, patches_of
from illume_runtime.resizing import antialiased, interpolated, resized

DATA = Path(__file__).parents[1] / "data" / "illume_plus"
TABLE = json.loads((DATA / "preprocess_table.json").read_text())
ANCHORS = {f"{h}x{w}": (w, h) for h, w in sorted({(*row["anchor_hw"], row["anchor_index"])[:2] for row in TABLE})}
PATCHES = PatchSpec(14, 2, (0.5, 0.25, 0.125), (0.5, 1.0, 2.0))
SPEC = AnySizePreprocessing(
    16, 1024, 768 * 768, 4096, "bicubic", (), "lanczos", (255, 255, 255), (0.5,) * 3, (0.5,) * 3, PATCHES
)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['w']}x{row['h']}")
def test_sizes_are_those_of_the_reference(row):
    size = (row["w"], row["h"])
    resized_to = any_size(size, SPEC)
    assert list(resized_to[::-1]) == row["smart_resize_hw_real"]
    assert list(ANCHORS[nearest_anchor(size, ANCHORS)][::-1]) == row["anchor_hw"]
    if resized_to not in ((256, 256), (512, 512), *ANCHORS.values()):  # whose grids are those of their resolutions
        assert [28 * n for n in merged_grid(resized_to, PATCHES)] == row["vit_resized_hw"]


@pytest.mark.parametrize("size", [(9000, 20), (100, 30_000), (100_000, 3)])
def test_strips_are_refused(size):
    with pytest.raises(UsageError, match=r"the picture has .* pixels, which become .*; expected sides of 16 to 4096"):
        any_size(size, SPEC)


def test_equally_near_shapes_go_to_the_nearest_size():
    anchors = {"small": (100, 100), "large": (400, 400)}
    assert nearest_anchor((390, 390), anchors) == "large"
    assert nearest_anchor((110, 110), anchors) == "small"


def test_patches_of_one_feature_are_neighbours():
    grid, (rows, columns) = (2, 3), (56, 84)
    places = np.arange(3 * rows * columns, dtype=np.float32).reshape(3, rows, columns)
    pixels = places / np.float32(places.size) * 2 - 1  # in [-1, 1], and in its own size: nothing is resized
    patches = patches_of(pixels, grid, PATCHES)
    assert patches.shape == (4 * 6, 588)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (PATCHES.mean, PATCHES.std))
    normal = ((pixels + 1) / 2 - mean) / std
    number = 0
    for row in range(2):
        for column in range(3):
            for y in range(2):
                for x in range(2):
                    top, left = 28 * row + 14 * y, 28 * column + 14 * x
                    expected = normal[:, top : top + 14, left : left + 14].ravel()
                    np.testing.assert_allclose(patches[number], expected, atol=1e-5)
                    number += 1


def test_rope_tables_follow_the_patches():
    table = np.stack([np.arange(12.0).reshape(6, 2), -np.arange(12.0).reshape(6, 2)]).astype(np.float32)
    cos, sin = patch_rope(table, (2, 3), 2)
    assert cos.shape == (24, 4)
    np.testing.assert_array_equal(sin, -cos)
    # The feature at row 1, column 2 is the last one; its patches are at rows 2 and 3, columns 4 and 5.
    np.testing.assert_array_equal(cos[-4:], [[4, 5, 8, 9], [4, 5, 10, 11], [6, 7, 8, 9], [6, 7, 10, 11]])
    raster, _ = patch_rope(table, (2, 3), 1)
    np.testing.assert_array_equal(raster[4], [2, 3, 2, 3])
    with pytest.raises(UsageError, match="the picture has 2x4 features, expected at most 3 a side"):
        patch_rope(table, (2, 4), 2)


@pytest.mark.parametrize(("size", "new_size"), [(256, 252), (512, 364), (16, 28), (300, 28), (9, 16), (16, 16)])
@pytest.mark.parametrize("matrix", [antialiased, interpolated])
def test_resizing_keeps_what_is_constant_and_what_is_not_resized(matrix, size, new_size):
    weights = matrix(size, new_size)
    assert weights.shape == (new_size, size)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    if size == new_size:
        np.testing.assert_array_equal(weights, np.eye(size))


def test_both_axes_are_resized():
    picture = np.random.default_rng(0).random((2, 5, 7), np.float32)
    rows, columns = interpolated(5, 9), antialiased(7, 3)
    expected = np.einsum("ay,cyx,bx->cab", rows, picture, columns)
    np.testing.assert_allclose(resized(picture, rows, columns), expected, atol=1e-6)

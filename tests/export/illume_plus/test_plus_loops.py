"""PyTorch's loops of the two-level family, against which ours are timed on a GPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from plus_checkpoint import LEVEL0, NUM_BYTES, NUM_CODES, small_config

from benchmarks.gpu import torch_loops
from benchmarks.gpu.static_decoder import layer_step
from illume_export.families.illume_plus.config import PlusConfig, PlusVocabulary
from illume_export.families.illume_plus.vocabulary import CONTROLS, TAG_SIZES
from illume_export.sequences import likeliest


def config_with_ids() -> PlusConfig:
    """The small sizes with the ids that its checkpoint finds in its tokenizer."""
    controls = {name: NUM_BYTES + i for i, name in enumerate(CONTROLS)}
    first = NUM_BYTES + len(CONTROLS)
    tags = {(side, size): first + i for i, (side, size) in enumerate((s, n) for s in ("h", "w") for n in TAG_SIZES)}
    level1 = LEVEL0 + NUM_CODES[0]
    vocabulary = PlusVocabulary(controls, tags, (LEVEL0, level1), (level1, level1 + NUM_CODES[1]))
    return dataclasses.replace(small_config(), vocabulary=vocabulary)


def test_both_loops_draw_the_same_codes_of_both_levels() -> None:
    model = torch_loops.plus_model(config_with_ids(), "cpu", torch.float32)
    expected = torch_loops.reference_codes(model, likeliest)
    loop = torch_loops.StaticLoop(model, likeliest, layer_step)
    torch.testing.assert_close(loop.codes(), expected)
    assert sum(end - start > 1 for start, end in model.grammar) == expected.shape[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_of_the_type_asked_for_and_made_from_a_seed(dtype: torch.dtype) -> None:
    one, other = (torch_loops.plus_model(config_with_ids(), "cpu", dtype) for _ in range(2))
    for first, second in zip(one.language_model.parameters(), other.language_model.parameters(), strict=True):
        assert first.dtype == dtype
        assert torch.equal(first, second)
    latents = torch_loops.denoised(one, one.denoise, 2)
    assert latents.isfinite().all()
    assert torch.equal(latents, torch_loops.denoised(other, other.denoise, 2))
    drawn = torch_loops.reference_codes(one, torch_loops.drawn_from_filters)
    assert drawn.min() >= 0

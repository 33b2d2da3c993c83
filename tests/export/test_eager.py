"""The eager pipeline against one whole pass per token, and its pictures against the runtime's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from illume_export.families.illume import EagerPipeline, checkpoint_from_folder, pipeline_from_checkpoint
from illume_export.pictures import drawn_pictures
from illume_kernels.philox import STREAM_NOISE, normal
from illume_runtime.pipeline import ImageSampling, Pipeline
from illume_runtime.solver import solver_table

PICTURE = drawn_pictures(1, 96, seed=3)[0]
GUIDANCE = 2.5


@pytest.fixture(scope="module")
def eager(checkpoint: Path) -> EagerPipeline:
    return pipeline_from_checkpoint(checkpoint_from_folder(checkpoint))


def slow_codes(eager: EagerPipeline, prompt: str, picture: np.ndarray | None) -> list[int]:
    """The likeliest codes: the whole sequence again for every token, logits of the codes alone."""
    model, c, (start, end) = eager.model.language_model, eager.config.controls, eager.config.level0_segment
    opening = model.embed(torch.tensor([c.start_of_image]))
    sides = [torch.cat((eager.prompt(text, picture), opening)) for text in (prompt, "")]
    codes: list[int] = []
    for _ in range(eager.config.grid_size):
        for _ in range(eager.config.grid_size):
            cond, uncond = (model.logits(model(side[None])[0, -1], start, end) for side in sides)
            codes.append(int((uncond + GUIDANCE * (cond - uncond)).argmax()))
            sides = [torch.cat((side, model.embed(torch.tensor([start + codes[-1]])))) for side in sides]
        sides = [torch.cat((side, model.embed(torch.tensor([c.end_of_line])))) for side in sides]
    return codes


@pytest.mark.parametrize("picture", [None, PICTURE], ids=["draw", "edit"])
@torch.no_grad()
def test_codes_are_those_of_whole_passes(eager: EagerPipeline, picture: np.ndarray | None) -> None:
    found = eager.draw("two stars", picture, guidance=GUIDANCE)
    assert list(found.ids) == slow_codes(eager, "two stars", picture)
    assert len(found.margins) == len(found.ids)
    assert all(0 < margin < 100 for margin in found.margins)


@torch.no_grad()
def test_answer_is_that_of_whole_passes(eager: EagerPipeline) -> None:
    model, (start, end) = eager.model.language_model, eager.config.text_segment
    sequence, ids = eager.prompt("what is it?", PICTURE), []
    for _ in range(12):
        logits = model.logits(model(sequence[None])[0, -1], start, end)
        logits[eager.config.controls.start_of_image - start] = -torch.inf
        ids.append(int(logits.argmax()) + start)
        if ids[-1] == eager.config.controls.end:
            break
        sequence = torch.cat((sequence, model.embed(torch.tensor(ids[-1:]))))
    found = eager.describe(PICTURE, "what is it?", max_tokens=12).ids
    assert list(found) == [i for i in ids if i != eager.config.controls.end]


def test_a_batch_chooses_row_by_row(eager: EagerPipeline) -> None:
    def last_first(scores: torch.Tensor) -> torch.Tensor:
        best = scores.argmax(-1)
        legal = scores > -torch.inf
        best[0] = legal[0].nonzero()[-1, 0]
        return best

    codes = eager.codes("two stars", guidance=GUIDANCE, num_pictures=3, choose=last_first)
    assert codes.shape == (3, 9)
    assert (codes[0] == 35).all()
    assert codes[1].tolist() == codes[2].tolist() == list(eager.draw("two stars", guidance=GUIDANCE).ids)


def test_pictures_are_the_runtimes(eager: EagerPipeline, bundle: Path) -> None:
    pipeline = Pipeline.load(bundle, threads=1)
    sampling = ImageSampling(seed=5, guidance=GUIDANCE, steps=4, diffusion_guidance=1.5)
    (drawn,) = pipeline.draw("two stars", sampling=sampling)
    scheduler = pipeline.bundle.scheduler
    noise = torch.from_numpy(normal(5, 0, STREAM_NOISE, scheduler.latent_shape))[None]
    steps = solver_table(scheduler, 4).steps
    (picture,) = eager.pictures(torch.from_numpy(drawn.codes[0]).view(1, -1), noise, steps, guidance=1.5)
    assert np.abs(picture.astype(int) - np.asarray(drawn.image).astype(int)).max() <= 1  # 0.5 rounds either way

"""The loss of the three stages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from illume_export.models import Illume, IllumeConfig
from illume_training.alignment import (
    AHEAD_WEIGHT,
    PLACE_WEIGHT,
    TEXT_WEIGHT,
    WHAT_WEIGHT,
    WHERE_WEIGHT,
    LanguageTrainer,
    next_marked,
)
from illume_training.dialogue import IMAGE, LAYOUT, NO_LOSS, TEXT, Packed
from illume_training.lessons import Lessons
from illume_training.looking import PLACED_AT, place_loss


@pytest.fixture(scope="module")
def model() -> Illume:
    torch.manual_seed(2)
    config = IllumeConfig.tiny()
    return Illume(replace(config, language_model=replace(config.language_model, num_layers=1)))


def placed(model: Illume, ids: np.ndarray, kinds: np.ndarray) -> torch.Tensor:
    """Weighted loss of where the codes go; of one layer, all shares of the layers come before it."""
    embeds = model.language_model.embed(torch.from_numpy(ids))
    once = place_loss(embeds, torch.from_numpy(kinds), model.adapter.position[0])
    return PLACE_WEIGHT * len(PLACED_AT) * once


def test_which_object_weighs_more_than_that_there_is_one(model):
    start, end = model.config.level0_segment
    depicting = torch.zeros(end - start, dtype=torch.bool)
    depicting[10:20] = True
    codes = [3, 12, 700, 19]
    ids = np.array([[5, *[start + code for code in codes], 7]], np.int64)
    kinds = np.array([[NO_LOSS, *[IMAGE] * 4, TEXT]], np.int64)
    lessons = Lessons((Packed(ids, np.full_like(ids, -1), kinds),), torch.zeros(1, 64, 192))
    trainer = LanguageTrainer(model, depicting)

    loss, figures = trainer.loss(lessons)

    hidden = model.language_model(model.language_model.embed(torch.from_numpy(ids)))[0]
    logits = [model.language_model.logits(hidden[i], start, end) for i in range(4)]
    every = sum(F.cross_entropy(logit, torch.tensor(code)) for logit, code in zip(logits, codes, strict=True))
    which = sum(F.cross_entropy(logits[i][10:20], torch.tensor(codes[i] - 10)) for i in (1, 3))
    text = F.cross_entropy(model.language_model.logits(hidden[4], *model.config.text_segment), torch.tensor(7))
    expected = (TEXT_WEIGHT * text + every + (WHAT_WEIGHT - 1.0) * which + placed(model, ids, kinds)) / 10.0
    torch.testing.assert_close(loss, expected)
    assert figures["picture_nll"] == pytest.approx(16.0 * every.item(), rel=1e-5)


def test_without_objects_all_codes_weigh_alike(model):
    start, _ = model.config.level0_segment
    ids = np.array([[5, start + 1, start + 2]], np.int64)
    kinds = np.array([[NO_LOSS, IMAGE, IMAGE]])
    lessons = Lessons((Packed(ids, np.full_like(ids, -1), kinds),), torch.zeros(1, 64, 192))
    loss, figures = LanguageTrainer(model).loss(lessons)
    of_codes = loss.item() * 10.0 - placed(model, ids, kinds).item()
    assert of_codes * 32.0 == pytest.approx(figures["picture_nll"], rel=1e-5)


def test_a_free_layout_learns_beside_the_codes_whether_an_object_is_here_and_which_comes_next(model):
    start, end = model.config.level0_segment
    depicting = torch.zeros(end - start, dtype=torch.bool)
    depicting[10:20] = True
    rng = np.random.default_rng(4)
    codes = rng.integers(30, 1000, (2, 64))
    codes[0, 20], codes[0, 40], codes[1, 0] = 12, 17, 19  # objects; none in the rest
    ids = np.concatenate([np.full((2, 1), 5), start + codes], 1)
    kinds = np.full_like(ids, LAYOUT)
    kinds[:, 0] = NO_LOSS
    lessons = Lessons((Packed(ids, np.full_like(ids, -1), kinds),), torch.zeros(2, 64, 192))

    loss, _ = LanguageTrainer(model, depicting).loss(lessons)

    expected = placed(model, ids, kinds)
    for row in range(2):
        hidden = model.language_model(model.language_model.embed(torch.from_numpy(ids[row : row + 1])))[0]
        for cell, code in enumerate(codes[row]):
            logit = model.language_model.logits(hidden[cell], start, end)
            expected = expected + F.cross_entropy(logit, torch.tensor(code))
            shown = logit.log_softmax(-1)[depicting if 10 <= code < 20 else ~depicting].logsumexp(-1)
            expected = expected - (WHERE_WEIGHT - 1.0) * shown
            coming = next((c for c in codes[row, cell:] if 10 <= c < 20), None)
            if coming is not None:
                weight = WHAT_WEIGHT - 1.0 if coming == code else AHEAD_WEIGHT
                expected = expected + weight * F.cross_entropy(logit[10:20], torch.tensor(coming - 10))
    torch.testing.assert_close(loss, expected / 2 / 10.0, rtol=1e-4, atol=1e-4)


def test_next_marked():
    marks = torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    assert next_marked(marks).tolist() == [[1, 1, 4, 4, 4, -1], [-1] * 6]

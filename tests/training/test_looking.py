"""Words of a question carried to where its answer begins, and looked up there."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from illume_export.models import IllumeConfig
from illume_export.models.language_model import LanguageModel
from illume_training.dialogue import AGAINST, IMAGE, LAYOUT, NAMED, NO_LOSS, SHOWN, TEXT, Look, Writer, pack
from illume_training.looking import AskedWords, looking_loss, place_loss
from illume_training.world import sample_scene
from illume_training.world.questions import QUESTION_MAKERS

CHECKPOINT = Path(__file__).parents[2] / "assets" / "illume-tiny"
HEART, HEARTS, STAR, RED, IS = 40, 41, 42, 43, 44
CONTROLS = IllumeConfig.tiny().controls
BEGIN, USER, ASSISTANT, END = CONTROLS.begin, CONTROLS.user, CONTROLS.assistant, CONTROLS.end


@pytest.fixture
def asked() -> AskedWords:
    return AskedWords({HEART: HEART, HEARTS: HEART, STAR: STAR, RED: RED}, 600, CONTROLS)


def dialogue(*turns: tuple[list[int], list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, kinds = [BEGIN], [NO_LOSS]
    for question, answer in turns:
        ids += [USER, *question, ASSISTANT, *answer, END]
        kinds += [NO_LOSS] * (len(question) + 2) + [TEXT] * (len(answer) + 1)
    return torch.tensor([ids]), torch.tensor([kinds])


def test_each_answer_has_the_words_of_its_own_question(asked):
    ids, kinds = dialogue(([IS, HEARTS, RED], [IS]), ([STAR], [RED, HEART]), ([IS], [IS]))
    starts, held = asked.questions(ids, kinds)
    places = starts[0].nonzero().flatten().tolist()
    assert [ids[0, place] for place in places] == [ASSISTANT] * 3
    words = [[int(asked.words[i]) for i in held[0, place].nonzero().flatten()] for place in places]
    assert words == [[HEART, RED], [STAR], []]


def test_a_picture_is_no_answer_in_words(asked):
    ids = torch.tensor([[BEGIN, USER, HEART, ASSISTANT, CONTROLS.start_of_image, 550, END]])
    kinds = torch.tensor([[NO_LOSS, NO_LOSS, NO_LOSS, NO_LOSS, TEXT, IMAGE, NO_LOSS]])
    starts, _ = asked.questions(ids, kinds)
    assert not starts.any()


def test_the_loss_falls_where_the_state_resembles_the_words_and_moves_no_word(asked):
    ids, kinds = dialogue(([IS, HEARTS], [RED]), ([IS], [IS]))
    table = torch.eye(600).requires_grad_()
    place = int((ids[0] == ASSISTANT).nonzero()[0, 0])
    states = torch.zeros(1, ids.shape[1], 600)

    def loss(*words: int) -> torch.Tensor:
        with_words = states.clone()
        with_words[0, place] = F.one_hot(torch.tensor(words), 600).sum(0).float()
        return asked(with_words.requires_grad_(), ids, kinds, table)

    assert loss(HEART) < loss(HEART, STAR) < loss(STAR)
    loss(HEART).backward()
    assert table.grad is None


def test_questions_without_such_words_add_nothing(asked):
    ids, kinds = dialogue(([IS], [IS]))
    assert asked(torch.randn(1, ids.shape[1], 600), ids, kinds, torch.eye(600)) == 0.0


@torch.no_grad()
def test_a_head_that_looks_at_the_cells_of_the_answer_loses_least():
    torch.manual_seed(3)
    language_model = LanguageModel(IllumeConfig.tiny().language_model)
    states = [torch.randn(2, 12, 256) for _ in language_model.model.layers]

    def loss(places: tuple[int, ...], row: int = 1, kind: int = SHOWN) -> float:
        looks = ((row, Look(kind, 9, places)),)
        return float(looking_loss(language_model, states, looks)) / 4.0  # its weight

    single = [loss((place,)) for place in range(10)]
    assert sum(torch.tensor(single).neg().exp()) == pytest.approx(1.0, rel=1e-4)  # a distribution over what came before
    assert loss((10,)) > 1e3  # which what comes later is no part of
    assert loss((2, 7)) == pytest.approx((single[2] + single[7]) / 2, rel=1e-4)
    assert len({single[2], loss((2,), row=0), loss((2,), kind=AGAINST), loss((2,), kind=NAMED)}) == 4


@torch.no_grad()
def test_a_row_and_a_column_are_named_before_each_code():
    positions = (10.0 * torch.eye(8, 16)[:, None] + 10.0 * torch.eye(8, 16).roll(8, 1)[None]).flatten(0, 1)
    kinds = torch.full((2, 80), NO_LOSS)
    codes = [place for place in range(8, 80) if place % 9 != 8]  # eight rows, each with an end of line behind
    kinds[1, codes] = LAYOUT
    states = torch.zeros(2, 80, 16)
    states[1, [place - 1 for place in codes]] = positions + 5.0  # whatever all cells have in common says nothing
    assert place_loss(states, kinds, positions) < 64 * 2 * 0.3
    moved = states.clone()
    moved[1, codes[0] - 1] = positions[8]  # as if it went a row lower
    assert 5.0 < place_loss(moved, kinds, positions) - place_loss(states, kinds, positions) < 20.0
    assert place_loss(states, torch.zeros_like(kinds), positions) == 0.0


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(IllumeConfig.tiny(), Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")))


def test_answers_look_at_the_cells_of_their_objects(writer):
    config, scene = writer.config, sample_scene(Random(3), "train", num_objects=3)
    question = QUESTION_MAKERS["where"](scene, Random(1))
    assert question is not None
    assert len(question.shown_by) == 1
    shown = question.shown_by[0]
    cell = shown.row * 8 + shown.column

    seen, drawn = writer.begin(), writer.begin()
    writer.user(seen, question.text, (2,))
    writer.answer(seen, question.answer, (cell,))
    writer.user(drawn, "a picture")
    writer.picture(drawn, np.arange(64).reshape(8, 8))
    writer.user(drawn, question.text)
    writer.answer(drawn, question.answer, (cell,))

    row, look = pack([drawn, seen], config.controls.pad).looks[1]
    assert (row, look.kind, seen.ids[look.place]) == (1, SHOWN, ASSISTANT)
    assert [seen.cells[place] for place in look.places] == [2 * 64 + cell]
    assert drawn.ids[drawn.looks[0].place] == ASSISTANT
    assert [drawn.ids[place] - config.level0_segment[0] for place in drawn.looks[0].places] == [cell]

"""Answers: where they end, how they stream, how they are cancelled."""

import dataclasses

import pytest
from scripted_engine import ScriptedEngine

from bundle_folder import CONTROLS, byte_tokenizer
from illume_runtime.answering import answer_rows
from illume_runtime.errors import EngineError
from illume_runtime.manifest import Segment, Vocabulary
from illume_runtime.pipeline import TextSampling
from illume_runtime.text import TextTokenizer

VOCABULARY = Vocabulary(
    size=2000,
    segments=(Segment("text", 0, 258),),
    controls=CONTROLS,
)
PICTURE = object()  # a schedule, of which nothing is asked
END, OPENING = CONTROLS["end"], CONTROLS["start_of_image"]
LONG = TextSampling(temperature=0.0, max_tokens=40)


def answered(
    script,
    *,
    sampling=LONG,
    may_draw=False,
    on_text=None,
    cancel=None,
    structure=(),
    pictures=None,
    vocabulary=VOCABULARY,
):
    engine = ScriptedEngine(script, 258)
    rows = [engine.embed([0] * 5) for _ in script[0]]
    tokenizer = TextTokenizer(byte_tokenizer(), vocabulary)
    answers = answer_rows(
        engine,
        tokenizer,
        vocabulary,
        rows,
        sampling,
        structure=structure,
        pictures=pictures or ({(): PICTURE} if may_draw else {}),
        on_text=on_text,
        cancel=cancel,
    )
    return answers, engine


def ids(text):
    return byte_tokenizer().encode(text).ids


def test_an_answer_ends_at_its_end_token_which_is_not_part_of_it():
    (answer,), engine = answered([[i] for i in [*ids("two"), END]])
    assert (answer.text, answer.finish_reason) == ("two", "end")
    assert len(answer.token_ids) == 3
    assert len(engine.steps) == 3  # nothing is run for what comes after the end


def test_an_answer_that_is_too_long_says_so():
    (answer,), engine = answered([[i] for i in ids("abcdef")], sampling=TextSampling(temperature=0.0, max_tokens=4))
    assert (answer.text, answer.finish_reason) == ("abcd", "length")
    assert len(engine.steps) == 3
    assert engine.started == [(1, 5 + 4)]


def test_rows_end_one_by_one_and_what_follows_an_end_is_left_out():
    long, short = [*ids("long"), END], [*ids("s"), END, *ids("xyz")]
    answers, _ = answered([list(pair) for pair in zip(long, short, strict=True)])
    assert [(a.text, a.finish_reason) for a in answers] == [("long", "end"), ("s", "end")]


def test_an_answer_may_be_empty():
    (answer,), _ = answered([[END]])
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", (), "end")


def test_a_picture_begins_only_where_one_may_and_only_at_once():
    assert answered([[OPENING]], may_draw=True)[0] is PICTURE
    (answer,), _ = answered([[OPENING], *[[i] for i in [*ids("no"), END]]])  # banned: the next best is token 0
    assert answer.text.endswith("no")
    (later,), _ = answered([[ids("a")[0]], [OPENING], [END]], may_draw=True)
    assert OPENING not in later.token_ids


def test_a_picture_begins_behind_the_tag_of_its_size():
    tag = ids("ab")
    script = [[i] for i in [*tag, OPENING, END]]
    assert answered(script, pictures={tuple(tag): PICTURE})[0] is PICTURE
    (answer,), _ = answered(script, pictures={(tag[0],): "another", (*tag, tag[0]): "another"})
    assert OPENING not in answer.token_ids


def test_what_only_stands_in_pictures_is_never_chosen():
    (answer,), _ = answered([[5], [7], [END]], structure={7, 300})
    assert answer.token_ids == (5, 0)


def test_padding_ends_an_answer():
    vocabulary = dataclasses.replace(VOCABULARY, controls={**CONTROLS, "pad": 9})
    (answer,), _ = answered([[5], [9], [6]], vocabulary=vocabulary)
    assert (answer.token_ids, answer.finish_reason) == ((5,), "end")


def test_pieces_never_end_inside_a_character():
    pieces = []
    (answer,), _ = answered([[i] for i in [*ids("a★é"), END]], on_text=pieces.append)
    assert pieces == ["a", "★", "é"]
    assert answer.text == "a★é"


def test_a_character_that_is_cut_off_is_streamed_as_it_stands_in_the_answer():
    pieces = []
    (answer,), _ = answered([[i] for i in [*ids("a★")[:-1], END]], on_text=pieces.append)
    assert "".join(pieces) == answer.text
    assert answer.text.startswith("a�")


def test_logits_that_are_no_numbers_are_an_engine_error():
    with pytest.raises(EngineError, match="head_text: no token can be drawn at step 1; the logits are not finite"):
        answered([[5], [None], [END]])


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancelled_answer_is_what_was_said_so_far(after):
    pieces = []
    (answer,), engine = answered(
        [[i] for i in [*ids("abcdef"), END]], on_text=pieces.append, cancel=lambda: len(pieces) >= after
    )
    assert (answer.text, answer.finish_reason) == ("abcdef"[:after], "cancelled")
    assert "".join(pieces) == answer.text
    assert len(engine.steps) == max(after - 1, 0)  # nothing is run for a token that is not asked for


def test_rows_that_ended_before_the_cancelling_have_ended():
    script = [[ids("a")[0], END], [ids("b")[0], 0], [ids("c")[0], 0]]
    asked = iter([False, False, True])
    answers, _ = answered(script, cancel=lambda: next(asked))
    assert [(a.text, a.finish_reason) for a in answers] == [("ab", "cancelled"), ("", "end")]


def test_answers_do_not_depend_on_how_many_are_made_at_once(pipeline, pictures, monkeypatch):
    images, questions = [pictures[0]] * 3, ["what?"] * 3
    sampling = TextSampling(temperature=1.0, seed=3, max_tokens=8)
    together = pipeline.describe_many(images, questions, sampling=sampling)
    assert len({answer.token_ids for answer in together}) == 3  # each draws for itself
    monkeypatch.setattr("illume_runtime.model.MAX_DRAW_BATCH", 2)
    assert pipeline.describe_many(images, questions, sampling=sampling) == together


@pytest.mark.parametrize("sampling", [TextSampling(), TextSampling(temperature=1.0, seed=9, max_tokens=30)], ids=str)
def test_streamed_text_is_the_text(pipeline, pictures, sampling):
    for picture in pictures:
        pieces = []
        streamed = pipeline.describe(picture, "what?", sampling=sampling, on_text=pieces.append)
        assert "".join(pieces) == streamed.text
        assert streamed == pipeline.describe(picture, "what?", sampling=sampling)


def test_answers_of_a_batch_are_those_of_single_requests_but_for_their_numbers(pipeline, pictures):
    greedy = TextSampling(temperature=0.0, max_tokens=10)
    questions = ["what?", "how many shapes are there?", "is there a circle?", None]
    together = pipeline.describe_many(list(pictures), questions, sampling=greedy)
    alone = [pipeline.describe(p, q, sampling=greedy) for p, q in zip(pictures, questions, strict=True)]
    assert together == alone
    assert len({answer.token_ids for answer in together}) > 1


def test_after_a_cancelled_answer_the_pipeline_is_as_new(pipeline, pictures):
    sampling = TextSampling(temperature=1.0, seed=2, max_tokens=20)
    whole = pipeline.describe(pictures[0], sampling=sampling)
    for after in (0, 1, 5):
        asked = iter([False] * after + [True])
        cut = pipeline.describe(pictures[0], sampling=sampling, cancel=lambda asked=asked: next(asked))
        assert (cut.token_ids, cut.finish_reason) == (whole.token_ids[:after], "cancelled")
    assert pipeline.describe(pictures[0], sampling=sampling) == whole


def test_what_a_callback_raises_ends_the_request_and_no_more(pipeline, pictures):
    whole = pipeline.describe(pictures[0])

    def broken(piece):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        pipeline.describe(pictures[0], on_text=broken)
    assert pipeline.describe(pictures[0]) == whole

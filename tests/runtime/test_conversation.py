"""Chat: turns with several pictures, drawn pictures that come back as tokens, and malformed messages."""

import numpy as np
import pytest
from PIL import Image

from illume_kernels.oracle import sample
from illume_kernels.params import SampleParams
from illume_runtime.errors import UsageError
from illume_runtime.images import fit
from illume_runtime.pipeline import ImageSampling, TextSampling

GREEDY = TextSampling(temperature=0.0, max_tokens=8)
DRAWING = ImageSampling(temperature=1.0, guidance=2.0, steps=1, seed=6)


def said(role, *content):
    return {"role": role, "content": list(content)}


def say_slowly(slow, *turns):
    return slow.say(slow.prompt(*turns), SampleParams.broadcast(1, temperature=0.0), 8)


def seed_that_draws(slow, *turns):
    """A seed for which the first token of the answer, at a temperature where all are about equal, begins a picture."""
    opening, text = slow.controls["start_of_image"], slow.segments["text"]
    logits = np.tile(slow._logits(slow.prompt(*turns))[text.start : text.stop], (6000, 1))
    tokens = sample(logits, SampleParams.broadcast(6000, temperature=100.0, seed=np.arange(6000)))
    return int(np.flatnonzero(tokens == opening - text.start)[0])


def test_several_turns_with_several_pictures_answer_as_the_slow_model_does(pipeline, slow, pictures):
    a, b, c = pictures[:3]
    messages = [said("user", "one", a)]
    turns = [("user", "one", a)]
    answers = []
    for text, *more in (("two", b, c), ("three",)):
        reply = pipeline.chat(messages, sampling=GREEDY)
        assert reply.picture is None
        answers.append(reply.text)
        assert reply.text == pipeline._model.tokenizer.decode(say_slowly(slow, *turns))
        messages += [said("assistant", "yes"), said("user", text, *more)]
        turns += [("assistant", "yes"), ("user", text, *more)]
    assert pipeline.chat(messages, sampling=GREEDY).text == pipeline._model.tokenizer.decode(say_slowly(slow, *turns))
    assert len(set(answers)) == 2


def test_a_drawn_picture_comes_back_as_its_tokens(pipeline, slow):
    (picture,) = pipeline.draw("a star", sampling=DRAWING)
    ids = pipeline._model.schedule.tokens_of(picture.codes).tolist()
    for role, turns in (
        ("assistant", [("user", "draw"), ("assistant", ids), ("user", "what is it?")]),
        ("user", [("user", "this", ids), ("assistant", "ok"), ("user", "what is it?")]),
    ):
        if role == "assistant":
            messages = [said("user", "draw"), {"role": role, "content": picture}, said("user", "what is it?")]
        else:
            messages = [said(role, "this", picture), said("assistant", "ok"), said("user", "what is it?")]
        reply = pipeline.chat(messages, sampling=GREEDY)
        assert reply.text == pipeline._model.tokenizer.decode(say_slowly(slow, *turns))


@pytest.mark.parametrize("with_picture", [False, True], ids=["drawn", "changed"])
def test_the_model_may_draw_in_a_chat(pipeline, slow, pictures, with_picture):
    attached = [pictures[0]] if with_picture else []
    turns = [("user", "hello"), ("assistant", "hi"), ("user", "a star", *attached)]
    messages = [said("user", "hello"), said("assistant", "hi"), said("user", "a star", *attached)]
    hot = TextSampling(temperature=100.0, seed=seed_that_draws(slow, *turns), max_tokens=4)
    pieces, events = [], []
    reply = pipeline.chat(
        messages, sampling=hot, image_sampling=DRAWING, on_text=pieces.append, on_progress=events.append
    )
    assert (reply.text, pieces) == ("", [])
    assert reply.picture.prompt == "a star"
    assert [e.phase for e in events].count("tokens") == 9
    sides = [slow.prompt(*turns, unconditional=side) for side in (False, True)]
    ids = slow.draw(*sides, SampleParams.broadcast(1, temperature=1.0, seed=6), 2.0)
    assert reply.picture.codes[0].ravel().tolist() == slow.codes(ids)


def test_a_picture_that_the_model_drew_in_a_chat_re_enters_it(pipeline, slow, pictures):
    turns = [("user", "a star", pictures[0])]
    messages = [said("user", "a star", pictures[0])]
    hot = TextSampling(temperature=100.0, seed=seed_that_draws(slow, *turns), max_tokens=4)
    drawn = pipeline.chat(messages, sampling=hot, image_sampling=DRAWING).picture
    turns += [("assistant", pipeline._model.schedule.tokens_of(drawn.codes).tolist())]
    messages += [said("assistant", drawn)]
    answers = []
    for text in ("what is it?", "and the color?"):
        turns += [("user", text)]
        messages += [said("user", text)]
        reply = pipeline.chat(messages, sampling=GREEDY)
        assert reply.text == pipeline._model.tokenizer.decode(say_slowly(slow, *turns))
        answers.append(reply.text)
        turns += [("assistant", "yes")]
        messages += [said("assistant", "yes")]
    assert answers[0]


def test_a_picture_drawn_in_a_chat_has_the_size_of_the_last_picture_shown(pipeline, slow, pictures):
    wide = Image.fromarray(pictures[0]).resize((60, 30))
    fitted = np.asarray(fit(wide, (96, 96), resample="bicubic", pad_color=(255, 255, 255)))
    seed = seed_that_draws(slow, ("user", "change it", fitted))
    hot = TextSampling(temperature=100.0, seed=seed, max_tokens=1)
    reply = pipeline.chat([said("user", "change it", wide)], sampling=hot, image_sampling=DRAWING)
    assert reply.picture.image.size == (60, 30)


def test_a_conversation_streams_what_it_answers(pipeline, pictures):
    pieces = []
    reply = pipeline.chat([said("user", "what is it?", pictures[0])], sampling=GREEDY, on_text=pieces.append)
    assert "".join(pieces) == reply.text
    assert reply.finish_reason == "length"
    cut = pipeline.chat([said("user", "what is it?", pictures[0])], sampling=GREEDY, cancel=lambda: True)
    assert (cut.text, cut.finish_reason) == ("", "cancelled")


def test_a_text_alone_may_stand_for_a_list(pipeline):
    short, long = ({"role": "user", "content": content} for content in ("hello", ["hello"]))
    assert pipeline.chat([short], sampling=GREEDY) == pipeline.chat([long], sampling=GREEDY)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the conversation does not end with the user's turn"),
        ([said("assistant", "hi")], "does not end with the user's turn"),
        ([said("user", "a"), said("user", "b")], "turn 1 of the conversation is out of order"),
        ([said("assistant", "a"), said("user", "b")], "turn 0 of the conversation is out of order"),
        ([said("system", "a"), said("user", "b")], "message 0: got the role 'system', expected {'role': 'user' or"),
        ([said("user", "")], "turn 0 of the conversation is empty; say what you want"),
        ([said("user")], "turn 0 of the conversation is empty"),
        ([{"role": "user"}], r"message 0: got {'role': 'user'}, expected"),
        ([{"role": "user", "content": "a", "name": "b"}], "message 0: got {'role'"),
        (["hello"], "message 0: got 'hello', expected"),
        ([{"role": "user", "content": None}], "message 0: the content is a NoneType"),
        ([{"role": "user", "content": b"abc"}], "message 0: the content is a bytes"),
        ([said("user", "a", 3)], "the picture is a int, expected a file name"),
        ([said("user", "a"), said("assistant", "b", "c"), said("user", "d")], "message 1: an answer is one text or"),
        ([said("user", "a"), said("assistant", np.zeros((2, 2))), said("user", "d")], "message 1: an answer is one"),
        ([said("user", "x" * 200)], "the prompt has 203 tokens and the answer needs up to 8, but the context holds"),
        ([said("user", "x" * 40_000)], "has 40000 characters, expected at most 32768"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_malformed_conversation_is_refused(pipeline, messages, message):
    with pytest.raises(UsageError, match=message):
        pipeline.chat(messages, sampling=GREEDY)

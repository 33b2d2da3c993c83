"""Conversations in which drawn pictures stand as tokens, against the conversation spelled out as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reference_sides import TorchSide, picture
from tokenizers import Tokenizer

from illume_export.families.illume_plus import folders_in, plus_from_folders
from illume_export.families.illume_plus.eager import HEAD, IMAGE, TAIL
from illume_runtime.pipeline import ImageSampling, Picture, Pipeline, TextSampling

NEXT = "<|im_end|>\n<|im_start|>user\n"  # between an answer and what the user says then
DRAFT = ImageSampling(temperature=0.0, guidance=2.0, quality="draft", repetition_penalty=1.0)
GREEDY = TextSampling(temperature=0.0, max_tokens=5, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def pipeline(published_bundle: Path) -> Pipeline:
    return Pipeline.load(published_bundle, threads=1)


@pytest.fixture(scope="module")
def tokenizer(published_folder: Path) -> Tokenizer:
    """That of the checkpoint: it reads control tokens where they are spelled."""
    return Tokenizer.from_file(str(published_folder / "mllm" / "tokenizer.json"))


@pytest.fixture(scope="module")
def side(published_folder: Path) -> TorchSide:
    text = (published_folder / "mllm" / "tokenizer.json").read_text()
    return TorchSide(plus_from_folders(folders_in(published_folder)), text)


def said(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def spelled(pipeline: Pipeline, tokenizer: Tokenizer, drawn: Picture, size: str) -> str:
    """The size's tag and the picture's tokens as text."""
    schedule = pipeline._model.schedules[size]
    return "".join(tokenizer.id_to_token(i) for i in (*schedule.tag, *schedule.tokens_of(drawn.codes).tolist()))


def answer_of(
    pipeline: Pipeline, tokenizer: Tokenizer, side: TorchSide, conversation: str, images: Sequence[Image.Image] = ()
) -> str:
    """The likeliest answer of plain PyTorch to a conversation in which IMAGE stands for each image."""
    chunks = [side.embed(tokenizer.encode(chunk, add_special_tokens=False).ids) for chunk in conversation.split(IMAGE)]
    parts = [chunks[0]]
    for image, chunk in zip(images, chunks[1:], strict=True):
        parts += [side.picture(image), chunk]
    vocabulary = pipeline.bundle.vocabulary
    embeds, ids = np.concatenate(parts), []
    banned = [i for name, i in vocabulary.controls.items() if "level" in name or "image" in name or "line" in name]
    for _ in range(GREEDY.max_tokens or 0):
        logits = side.logits(embeds)[-1, : vocabulary.segment("level0").start]
        logits[banned] = -np.inf
        token = int(logits.argmax())
        if token in (vocabulary.controls["end"], vocabulary.controls["pad"]):
            break
        ids.append(token)
        embeds = np.concatenate((embeds, side.embed([token])))
    return pipeline._model.tokenizer.decode(ids)


def test_a_drawn_picture_is_read_as_its_tokens(pipeline: Pipeline, tokenizer: Tokenizer, side: TorchSide) -> None:
    (drawn,) = pipeline.draw("two dogs", size="256x256", sampling=DRAFT)
    messages = [said("user", "draw it"), said("assistant", drawn), said("user", "and now?")]
    text = f"{HEAD}draw it{TAIL}{spelled(pipeline, tokenizer, drawn, '256x256')}{NEXT}and now?{TAIL}"
    reply = pipeline.chat(messages, sampling=GREEDY)
    assert reply.text == answer_of(pipeline, tokenizer, side, text)
    (other,) = pipeline.draw("a cat", size="256x256", sampling=DRAFT)
    messages[1] = said("assistant", other)
    assert pipeline.chat(messages, sampling=GREEDY).text != reply.text  # it matters what was drawn


def test_an_edit_re_enters_beside_the_picture_that_it_is_of(
    pipeline: Pipeline, tokenizer: Tokenizer, side: TorchSide
) -> None:
    image = picture("landscape")
    (edited,) = pipeline.edit(image, "make it green", sampling=DRAFT)
    messages = [said("user", "make it green", image), said("assistant", edited), said("user", "what is it?")]
    drawn = spelled(pipeline, tokenizer, edited, "512x384")
    text = f"{HEAD}{IMAGE}\nmake it green{TAIL}{drawn}{NEXT}what is it?{TAIL}"
    reply = pipeline.chat(messages, sampling=GREEDY)
    assert reply.text == answer_of(pipeline, tokenizer, side, text, [image])


def test_a_picture_that_the_model_begins_is_drawn_in_its_size_and_re_enters(
    pipeline: Pipeline, tokenizer: Tokenizer, side: TorchSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first turn is answered with a tag and the start of a picture: text logits are led to say so."""
    model = pipeline._model
    tag = model.schedules["256x256"].tag
    led = [*tag, pipeline.bundle.vocabulary.control("start_of_image")]
    plain = type(model.engine).logits

    def leading(engine: object, segment: str, hidden: np.ndarray, guidance: float) -> np.ndarray:
        logits: np.ndarray = plain(engine, segment, hidden, guidance)  # type: ignore[arg-type]
        if segment == "text" and led:
            logits = logits.copy()
            logits[:, led.pop(0)] = 1e4
        return logits

    monkeypatch.setattr(type(model.engine), "logits", leading)
    first = pipeline.chat([said("user", "draw a dog")], sampling=GREEDY, image_sampling=DRAFT)
    assert first.picture is not None
    assert led == []
    assert [level.shape for level in first.picture.codes] == [(9, 9), (16, 16)]
    messages = [said("user", "draw a dog"), said("assistant", first.picture), said("user", "thanks")]
    second = pipeline.chat(messages, sampling=GREEDY)
    drawn = spelled(pipeline, tokenizer, first.picture, "256x256")
    text = f"{HEAD}draw a dog{TAIL}{drawn}{NEXT}thanks{TAIL}"
    assert second.text == answer_of(pipeline, tokenizer, side, text)
    messages += [said("assistant", second.text), said("user", "and what else?")]
    text = f"{text}{second.text}{NEXT}and what else?{TAIL}"
    assert pipeline.chat(messages, sampling=GREEDY).text == answer_of(pipeline, tokenizer, side, text)

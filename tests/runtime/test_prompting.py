"""Prompts as embeddings."""

import numpy as np
import pytest

from illume_runtime.errors import InvalidBundleError, UsageError
from illume_runtime.prompting import check_context, embeds_of_prompt
from illume_runtime.prompts import PictureSlot, Prompt
from illume_runtime.schedule import TokenRun
from illume_runtime.vision import Seen


def test_runs_and_pictures_stand_in_order(pipeline):
    engine, schedule = pipeline._model.engine, pipeline._model.schedule
    prompt = Prompt((TokenRun((1, 2)), PictureSlot(1), TokenRun((3,)), PictureSlot(0)))
    first, second = (np.full((9, 48), value, np.float32) for value in (1, 2))
    embeds = embeds_of_prompt(engine, prompt, [Seen(one, schedule.input_block) for one in (first, second)])
    assert embeds.shape == (prompt.num_tokens([schedule.num_input_tokens] * prompt.num_pictures), 48)
    np.testing.assert_array_equal(embeds[:2], engine.embed([1, 2]))
    columns = [3, 4, 5, 7, 8, 9, 11, 12, 13]  # behind the start of the picture, and between the ends of its lines
    np.testing.assert_array_equal(embeds[columns], second)
    np.testing.assert_array_equal(embeds[np.array(columns) + 15], first)


@pytest.mark.parametrize("count", [8, 10])
def test_a_picture_of_another_number_of_embeddings_is_refused(pipeline, count):
    picture = np.zeros((count, 48), np.float32)
    prompt = Prompt((PictureSlot(0),))
    with pytest.raises(InvalidBundleError, match=f"input program embeds 9 places, the vision encoder gives {count}"):
        embeds_of_prompt(pipeline._model.engine, prompt, [Seen(picture, pipeline._model.schedule.input_block)])


def test_the_context_is_filled_to_the_last_token():
    check_context(90, 10, 100, "the answer")
    with pytest.raises(UsageError, match="the prompt has 91 tokens and the answer needs up to 10, but the context"):
        check_context(91, 10, 100, "the answer")


def test_pictures_that_take_the_context_are_named():
    check_context(90, 10, 100, "the answer", [40, 40])
    with pytest.raises(
        UsageError, match=r"has 91 tokens, 80 of them for 2 pictures, and .* holds 100; leave a picture"
    ):
        check_context(91, 10, 100, "the answer", [40, 40])
    with pytest.raises(UsageError, match=r"has 91 tokens, 80 of them for 1 picture, and .* holds 100; make the pict"):
        check_context(91, 10, 100, "the answer", [80])

"""Checklists as words: read back as they were written, and other words refused."""

import re
from random import Random

import pytest

from illume_runtime.enhance.checklist import DIMENSIONS, Check, checklist_from_text, text_from_checklist
from illume_training.enhancement.claims import claims_of
from illume_training.world import caption_of, sample_scene

TWO = (
    Check("object", "how many objects are there?", "three"),
    Check("color", "is there a red star?", "yes"),
    Check("color", "is there a blue moon?", "yes"),
)


def test_questions_of_one_dimension_stand_together():
    text = text_from_checklist(TWO)
    assert (
        text == "object: how many objects are there? three. color: is there a red star? yes, is there a blue moon? yes"
    )
    assert checklist_from_text(text) == TWO


def test_the_checklist_of_every_caption_is_read_back():
    for number in range(400):
        rng = Random(f"checklist-{number}")
        checks = tuple(claim.check for claim in claims_of(caption_of(sample_scene(rng, "train"), rng)))
        assert checklist_from_text(text_from_checklist(checks)) == checks
        order = [DIMENSIONS.index(check.dimension) for check in checks]
        assert order == sorted(order)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got '', expected a dimension, a colon and questions"),
        ("a red star", "got 'a red star', expected a dimension"),
        ("object: three stars", "got 'three stars', expected a question with its answer"),
        ("size: is it big? yes", "dimension: got 'size', expected one of object, count, color, spatial"),
        ("object: is it? ", "answer: got '', expected plain words"),
        ("object: is it? yes. ", "got '', expected a dimension"),
        ("object: is it? yes? no", "answer: got 'yes? no', expected plain words without . , : ?"),
        ("object: ? yes", "question: got '', expected plain words"),
    ],
)
def test_other_words_are_no_checklist(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        checklist_from_text(text)

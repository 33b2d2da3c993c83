"""What the cells of drawings and edits are taught to look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from illume_export.models import IllumeConfig
from illume_training.dialogue import NAMED, NEXT, RELATED, WHERE, Look, Sequence, Writer
from illume_training.looks import cell_of, looks_of_drawing, looks_of_edit
from illume_training.world import Caption, Scene, SceneObject, sample_drawing, sample_settled_edit
from illume_training.world.wording import plural, region_words

CHECKPOINT = Path(__file__).parents[2] / "assets" / "illume-tiny"
CODES: NDArray[np.int64] = np.arange(64).reshape(8, 8)


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(IllumeConfig.tiny(), Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json")))


def drawings(writer: Writer) -> Iterator[tuple[Scene, Caption, Sequence, list[Look]]]:
    rng = Random(5)
    for _ in range(100):
        scene, caption = sample_drawing(rng, "train")
        sequence = writer.begin()
        writer.user(sequence, caption.text)
        end = len(sequence.ids)
        writer.picture(sequence, CODES)
        yield scene, caption, sequence, list(looks_of_drawing(writer, sequence, end, scene, caption))


def words(writer: Writer, sequence: Sequence, look: Look) -> str:
    text: str = writer.tokenizer.decode([sequence.ids[place] for place in look.places], skip_special_tokens=False)
    return text.strip()


def coming(scene: Scene, cell: int) -> list[SceneObject]:
    return [o for o in scene.objects if cell_of(o) >= cell]


def test_a_drawing_looks_at_its_names_one_after_the_other_and_then_at_none(writer):
    for scene, caption, sequence, looks in drawings(writer):
        told = [look for look in looks if look.kind == NEXT]
        first = writer.config.level0_segment[0]
        assert [sequence.ids[look.place + 1] - first for look in told] == list(range(64))  # before each code
        for cell, look in enumerate(told):
            left = coming(scene, cell)
            assert words(writer, sequence, look) in (
                {left[0].shape, plural(left[0].shape)} if left else {"<|assistant|>"}
            )
        if len(caption.groups) == len({group.shape for group in caption.groups}):
            assert len({look.places for look in told}) == len(caption.groups) + 1


def test_of_two_that_are_beside_each_other_the_relation_and_the_one_drawn_are_looked_at(writer):
    seen = set()
    for scene, caption, sequence, looks in drawings(writer):
        told = {kind: [look for look in looks if look.kind == kind] for kind in (WHERE, RELATED)}
        assert len(told[WHERE]) == len(told[RELATED]) == 64 * len(caption.relations)
        if not caption.relations:
            continue
        pair = [o for o in scene.objects if any(o in caption.groups[i] for i in (0, 1))]
        for cell, (where, related) in enumerate(zip(told[WHERE], told[RELATED], strict=True)):
            left = coming(scene, cell)
            said = words(writer, sequence, where)
            if not left or left[0] not in pair:
                assert (said, words(writer, sequence, related)) == ("<|assistant|>", "<|assistant|>")
                continue
            assert f" {said} " in caption.text
            seen.add(said)
            row, column = divmod(cell, 8)
            in_line = row == pair[0].row if said in ("left", "right") else column == pair[0].column
            if left[0] == pair[0] or not in_line:
                assert words(writer, sequence, related) == "<|assistant|>"
            else:
                assert sequence.ids[related.places[0]] - writer.config.level0_segment[0] == cell_of(pair[0])
    assert seen == {"left", "right", "above", "over", "below", "under"}


def edited(writer: Writer, kind: str) -> Iterator[tuple[Sequence, int, list[Look], Scene, Scene]]:
    rng = Random(kind)
    for _ in range(30):
        edit = sample_settled_edit(rng, "train", kind)
        sequence = writer.begin()
        writer.user(sequence, edit.text, (0,))
        first = sequence.first_cell
        writer.picture(sequence, CODES)
        yield sequence, first, list(looks_of_edit(writer, sequence, first, edit)), edit.source, edit.target


@pytest.mark.parametrize("kind", ["remove", "recolor"])
def test_the_object_of_an_edit_looks_at_what_is_said_of_it_and_the_others_do_not(writer, kind):
    for sequence, _, looks, source, target in edited(writer, kind):
        (old,) = set(source.objects) - set(target.objects)
        new = set(target.objects) - set(source.objects)
        said = {sequence.cells[look.place]: words(writer, sequence, look) for look in looks}
        assert said == {
            cell_of(o): " ".join([o.shape, *(p.color for p in new)]) if o == old else "<|user|>" for o in source.objects
        }
        assert all(look.kind == NAMED for look in looks)
        for look in looks:
            assert look.places[0] < look.places[-1] or kind == "remove" or len(look.places) == 1


def test_each_cell_of_the_region_looks_at_what_is_to_be_added_there_until_it_is_drawn(writer):
    for sequence, _, looks, source, target in edited(writer, "add"):
        (new,) = set(target.objects) - set(source.objects)
        assert all(look.kind == WHERE for look in looks)
        assert [sequence.ids[look.place + 1] - writer.config.level0_segment[0] for look in looks] == list(range(64))
        for cell, look in enumerate(looks):
            row, column = divmod(cell, 8)
            inside = row in range(1, 7) and column in range(1, 7)
            inside = inside and region_words(row, column) == region_words(new.row, new.column)
            shape_and_region = f"{new.shape} {region_words(new.row, new.column)}"
            assert words(writer, sequence, look) == (
                shape_and_region if inside and cell <= cell_of(new) else "<|user|>"
            )


@pytest.mark.parametrize("kind", ["background", "complete", "style"])
def test_edits_that_name_nothing_look_at_nothing(writer, kind):
    assert not any(looks for _, _, looks, _, _ in edited(writer, kind))

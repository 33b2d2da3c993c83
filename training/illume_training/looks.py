"""What the cells of a drawing and of an edit are taught to look at: the words about them, and what stands already.

Each is told at every cell, also where nothing is to be looked at: then it looks at the token where the words begin or
end, so that a head can tell the two apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from illume_training.dialogue import NAMED, NEXT, RELATED, WHERE, Look, Sequence, Writer
from illume_training.world import Caption, Edit, Scene, SceneObject
from illume_training.world.palette import GRID, INNER, SHAPES
from illume_training.world.wording import RELATION_WORDS, plural, region_words


def cell_of(o: SceneObject) -> int:
    """The cell 0..63 in which the centre of an object lies."""
    return o.row * GRID + o.column


def looks_of_drawing(
    writer: Writer, sequence: Sequence, words_end: int, scene: Scene, caption: Caption
) -> Iterable[Look]:
    """From the token before each cell of the latest picture, which shows `scene`.

    At the name of the object that comes next, behind the last at the end of the words. Where the next one is of two
    that are said to be beside each other, at the word that relates them too; and once the other one is drawn, from the
    cells that lie to it as the word says, in its row or its column, at that.
    """
    none = words_end - 1
    names = {writer.token(name) for shape in SHAPES for name in (shape, plural(shape))}
    mentions = [place for place in range(words_end) if sequence.ids[place] in names]
    relating = _relating_words(writer, sequence.ids, mentions) if caption.relations else ()
    for cell in range(writer.config.num_patches):
        place = writer.place(sequence, cell) - 1
        coming = [o for o in scene.objects if cell_of(o) >= cell]
        named = next(i for i, group in enumerate(caption.groups) if coming[0] in group) if coming else None
        yield Look(NEXT, place, (none if named is None else mentions[named],))
        for relation in caption.relations:  # between the first two, one object each
            pair = {relation.first, relation.second}
            words: tuple[int, ...] = (none,)
            other = none
            if named in pair:
                words = relating
                drawn = [o for o in scene.objects if cell_of(o) < cell and any(o in caption.groups[i] for i in pair)]
                if drawn and _is_in_line(cell, drawn[0], relation.word):
                    other = writer.place(sequence, cell_of(drawn[0]))
            yield Look(WHERE, place, words)
            yield Look(RELATED, place, (other,))


def _is_in_line(cell: int, first: SceneObject, word: str) -> bool:
    """Whether a later cell lies in the line that `word` speaks of: the row of the first thing, or its column."""
    row, column = divmod(cell, GRID)
    return row == first.row if word in ("left", "right") else column == first.column


def _relating_words(writer: Writer, ids: list[int], mentions: list[int]) -> tuple[int, ...]:
    """Places of the tokens of the one word between the first two mentions that relates them."""
    between = range(mentions[0] + 1, mentions[1])
    words = tuple(chain(*RELATION_WORDS.values()))
    for pieces in map(writer.text, words):
        for first in between:
            if ids[first : first + len(pieces)] == pieces:
                return tuple(range(first, first + len(pieces)))
    raise ValueError(f"no word of {', '.join(words)} between the first two names of {ids}")


def looks_of_edit(writer: Writer, sequence: Sequence, first_cell: int, edit: Edit) -> Iterable[Look]:
    """From the cells of the source, the first of which lies at `first_cell`, and of the target, the latest picture.

    An object of the source that the words name looks at its name, and at the colour it is to have; the others do not.
    Where something is to be added, each cell of the region looks at the region's words and at the name, until it is
    drawn.
    """
    begin = sequence.ids.index(writer.config.controls.user)

    def said(word: str) -> int:  # the latest mention: a colour to be had comes behind the colour that is
        return max(place for place in range(begin, first_cell) if sequence.ids[place] == writer.token(word))

    old, new = (set(a.objects) - set(b.objects) for a, b in ((edit.source, edit.target), (edit.target, edit.source)))
    for o in old:
        words = (said(o.shape), *(said(p.color) for p in new))
        for other in edit.source.objects:
            place = first_cell + writer.place(sequence, cell_of(other)) - sequence.first_cell
            yield Look(NAMED, place, words if other == o else (begin,))
    if edit.kind == "add":
        (o,) = new
        region = region_words(o.row, o.column)
        words = (said(o.shape), *(said(word) for word in region.split()))
        for cell in range(writer.config.num_patches):
            row, column = divmod(cell, GRID)
            inside = row in INNER and column in INNER and region_words(row, column) == region
            yield Look(WHERE, writer.place(sequence, cell) - 1, words if inside and cell <= cell_of(o) else (begin,))

"""Claims of a caption, as questions about a picture: what the caption wants, and what the picture checker answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from illume_runtime.enhance.assessment import AnsweredCheck
from illume_runtime.enhance.checklist import DIMENSIONS, Check
from illume_training.evaluation.checker import SeenObject, SeenPicture
from illume_training.evaluation.judging import objects_meant, relation_seen
from illume_training.world import Caption, Group, Relation
from illume_training.world.palette import CELL, GRID
from illume_training.world.wording import NUMBERS, background_words, how_big, how_many, is_there, lies_so, named, plural


@dataclass(frozen=True, slots=True)
class Sighting:
    """An answer, the cells 0..63 that show it, and those that they are compared with."""

    answer: str
    shown_by: tuple[int, ...] = ()
    against: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A check, and how a picture answers it; None: it has no plain answer there."""

    check: Check
    seen: Callable[[SeenPicture], Sighting | None]


def claims_of(caption: Caption) -> list[Claim]:
    """All that can be asked, dimension by dimension in the order of DIMENSIONS."""
    return sorted(_claims(caption), key=lambda claim: DIMENSIONS.index(claim.check.dimension))


def answered(claim: Claim, seen: SeenPicture) -> AnsweredCheck:
    """The check with what the picture checker sees; right answers have the score 1, others 0."""
    check, sighting = claim.check, claim.seen(seen)
    if sighting is None:
        return AnsweredCheck(check.dimension, check.question, check.wanted, None, None)
    score = float(sighting.answer == check.wanted)
    return AnsweredCheck(
        check.dimension, check.question, check.wanted, sighting.answer, score, sighting.shown_by, sighting.against
    )


def _claims(caption: Caption) -> Iterator[Claim]:
    groups = caption.groups
    total = sum(group.count for group in groups)
    if total < len(NUMBERS):
        yield Claim(Check("object", how_many("objects"), NUMBERS[total]), _all)
    counts: Counter[str] = Counter()
    for group in groups:
        counts[group.shape] += group.count
    dimension = "count" if any(group.count > 1 for group in groups) else "object"
    for shape, count in counts.items():
        if count < len(NUMBERS):
            check = Check(dimension, how_many(plural(shape)), NUMBERS[count])
            yield Claim(check, partial(_of_shape, shape))
    kinds = Counter((group.shape, group.color) for group in groups)
    for group in groups:
        if group.color is not None and group.size is not None and kinds[group.shape, group.color] == group.count == 1:
            yield Claim(Check("object", how_big(named(group.shape, group.color)), group.size), partial(_size, group))
    for shape, color in kinds:
        if color is not None:
            yield Claim(Check("color", is_there(shape, color), "yes"), partial(_exists, shape, color))
    shared = {group.color for group in groups if sum(shape == group.shape for shape, _ in kinds) > 1 and group.color}
    for color in sorted(shared):
        count = sum(group.count for group in groups if group.color == color)
        if count < len(NUMBERS):
            check = Check("color", how_many(f"{color} objects"), NUMBERS[count])
            yield Claim(check, partial(_of_color, color))
    if caption.background is not None:
        wanted = background_words(caption.background)
        yield Claim(Check("color", "what is the background?", wanted), _background)
    if caption.style == "outline":
        yield Claim(Check("color", "is it an outline drawing?", "yes"), partial(_style, caption.style))
    if caption.style == "sepia":
        yield Claim(Check("color", "is it in sepia?", "yes"), partial(_style, caption.style))
    for relation in caption.relations:
        first, second = groups[relation.first], groups[relation.second]
        question = lies_so(named(first.shape, first.color), relation.word, named(second.shape, second.color))
        yield Claim(Check("spatial", question, "yes"), partial(_relation, relation, groups))


def _all(seen: SeenPicture) -> Sighting | None:
    return _number(seen.objects, shown=False)


def _of_shape(shape: str, seen: SeenPicture) -> Sighting | None:
    return _number([o for o in seen.objects if o.shape == shape])


def _of_color(color: str, seen: SeenPicture) -> Sighting | None:
    return _number([o for o in seen.objects if o.color == color])


def _number(objects: Sequence[SeenObject], *, shown: bool = True) -> Sighting | None:
    if len(objects) >= len(NUMBERS):
        return None
    return Sighting(NUMBERS[len(objects)], _cells(objects) if shown else ())


def _exists(shape: str, color: str, seen: SeenPicture) -> Sighting | None:
    if seen.style == "sepia":
        return None
    found = [o for o in seen.objects if (o.shape, o.color) == (shape, color)]
    return Sighting("yes" if found else "no", _cells(found))


def _size(group: Group, seen: SeenPicture) -> Sighting | None:
    found = [o for o in seen.objects if (o.shape, o.color) == (group.shape, group.color)]
    return Sighting(found[0].size, _cells(found)) if len(found) == 1 else None


def _background(seen: SeenPicture) -> Sighting | None:
    return None if seen.style == "sepia" else Sighting(background_words(seen.background))


def _style(style: str, seen: SeenPicture) -> Sighting:
    return Sighting("yes" if seen.style == style else "no")


def _relation(relation: Relation, groups: Sequence[Group], seen: SeenPicture) -> Sighting:
    first, second = (objects_meant(groups[i], groups, seen.objects) for i in (relation.first, relation.second))
    holds = relation_seen(relation, groups, seen.objects) == relation.word
    return Sighting("yes" if holds else "no", _cells(first), _cells(second))


def _cells(objects: Sequence[SeenObject]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_cell(o.y) * GRID + _cell(o.x) for o in objects))


def _cell(pixel: float) -> int:
    return min(max(int(pixel // CELL), 0), GRID - 1)

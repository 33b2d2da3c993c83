"""The independent judge: the picture checker of `illume eval`, and what it sees in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from illume_runtime.enhance.assessment import Assessment, assessment
from illume_runtime.enhance.judge import Drawn
from illume_runtime.errors import UsageError
from illume_runtime.images import image_from_file
from illume_training.enhancement.reading import caption_from_text
from illume_training.evaluation.checker import SeenPicture
from illume_training.evaluation.judging import caption_checks
from illume_training.evaluation.tasks import seen_in
from illume_training.world import Caption
from illume_training.world.wording import NUMBERS, background_words, plural


class Checker:
    """Scores are 1 or 0; a dimension that the prompt does not state has none."""

    name = "checker"

    def assess(self, pictures: Sequence[Drawn]) -> list[Assessment]:
        """Of pictures in files."""
        return [self._assessment(picture) for picture in pictures]

    def _assessment(self, picture: Drawn) -> Assessment:
        caption = caption_of_prompt(picture)
        if picture.picture is None:
            raise UsageError(f"picture {picture.id} has no file, and the checker looks at pixels; give one")
        _, seen = seen_in(image_from_file(picture.picture))
        return assessment_of(seen, caption, picture.id)


def caption_of_prompt(picture: Drawn) -> Caption:
    """What the prompt claims. Raises UsageError for one that is no caption of this world."""
    caption = caption_from_text(picture.prompt)
    if caption is None:
        raise UsageError(
            f"picture {picture.id}: {picture.prompt[:80]!r} is no caption of this world, so it cannot be checked; "
            "use --judge model, or --on-error skip"
        )
    return caption


def assessment_of(seen: SeenPicture, caption: Caption, identifier: str) -> Assessment:
    """The assessment of what the checker sees."""
    checks = caption_checks(seen, caption)
    words = {"object": _objects, "count": _counts, "color": _colors, "spatial": _places}
    dimensions = {
        name: (float(checks[name]), say(seen, caption, checks[name])) for name, say in words.items() if name in checks
    }
    right = checks["all"]
    return assessment(identifier, caption.text, "checker", dimensions, float(right), _whole(seen, caption, checks))


def _whole(seen: SeenPicture, caption: Caption, checks: dict[str, bool]) -> str:
    if checks["all"]:
        return "all is there"
    wrong = [name for name, right in checks.items() if name != "all" and not right]
    if "background" in wrong and wrong == ["background"]:
        return f"the background is {background_words(seen.background)}"
    if not wrong:
        return f"there are {len(seen.objects)} objects"
    return f"wrong {' and '.join(wrong)}"


def _objects(seen: SeenPicture, caption: Caption, right: bool) -> str:
    asked, shown = {g.shape for g in caption.groups}, {o.shape for o in seen.objects}
    if right:
        return " and ".join(sorted(asked))
    missing = [f"no {shape}" for shape in sorted(asked - shown)]
    stray = [f"a stray {shape}" for shape in sorted(shown - asked)]
    return " and ".join([*missing, *stray])


def _counts(seen: SeenPicture, caption: Caption, right: bool) -> str:
    asked: Counter[str] = Counter()
    for group in caption.groups:
        asked[group.shape] += group.count
    shown = Counter(o.shape for o in seen.objects)
    if right:
        return " and ".join(_number(asked[shape], shape) for shape in sorted(asked))
    return " and ".join(
        _number(shown[shape], shape) for shape in sorted({*asked, *shown}) if asked[shape] != shown[shape]
    )


def _colors(seen: SeenPicture, caption: Caption, right: bool) -> str:
    shapes = sorted({g.shape for g in caption.groups})
    asked = {shape: {g.color for g in caption.groups if g.shape == shape} for shape in shapes}
    shown = {shape: {o.color for o in seen.objects if o.shape == shape} for shape in shapes}
    parts = []
    for shape in shapes:
        if right or asked[shape] != shown[shape]:
            colors = sorted(color for color in shown[shape] if color)
            parts.append(f"{' and '.join(colors)} {shape}" if colors else f"no {shape}")
    return " and ".join(parts)


def _places(seen: SeenPicture, caption: Caption, right: bool) -> str:
    relation = caption.relations[0]
    first, second = caption.groups[relation.first].shape, caption.groups[relation.second].shape
    return f"{first} {'' if right else 'not '}{relation.word} of {second}"


def _number(count: int, shape: str) -> str:
    word = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{word} {shape if count == 1 else plural(shape)}"

"""The independent judge: the picture checker of `illume eval`, and what it sees in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from illume_runtime.enhance.assessment import Assessment, assessment
from illume_runtime.enhance.judge import Drawn
from illume_runtime.errors import UsageError
from illume_runtime.images import image_from_file
from illume_training.enhancement.claims import answered, claims_of
from illume_training.enhancement.reading import caption_from_text
from illume_training.evaluation.checker import SeenPicture
from illume_training.evaluation.judging import caption_checks, relation_seen
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
    """The assessment of what the checker sees; its analyses say what that is, its scores whether it is as asked."""
    checks = caption_checks(seen, caption)
    words = {"object": _objects, "count": _counts, "color": _colors, "spatial": _places}
    dimensions = {name: (float(checks[name]), say(seen, caption)) for name, say in words.items() if name in checks}
    asked = [answered(claim, seen) for claim in claims_of(caption)]
    score, whole = float(checks["all"]), _whole(seen, caption, checks)
    return assessment(identifier, caption.text, "checker", dimensions, score, whole, asked)


def _whole(seen: SeenPicture, caption: Caption, checks: dict[str, bool]) -> str:
    if checks["all"]:
        return "all is there"
    wrong = [name for name, right in checks.items() if name != "all" and not right]
    if "background" in wrong and wrong == ["background"]:
        return f"the background is {background_words(seen.background)}"
    if not wrong:
        return f"there are {len(seen.objects)} objects"
    return f"wrong {' and '.join(wrong)}"


def _objects(seen: SeenPicture, caption: Caption) -> str:
    return " and ".join(_shapes(seen, caption)) or "nothing"


def _counts(seen: SeenPicture, caption: Caption) -> str:
    shown = Counter(o.shape for o in seen.objects)
    return " and ".join(_number(shown[shape], shape) for shape in _shapes(seen, caption)) or "nothing"


def _colors(seen: SeenPicture, caption: Caption) -> str:
    parts = []
    for shape in dict.fromkeys(g.shape for g in caption.groups):
        colors = dict.fromkeys(o.color for o in seen.objects if o.shape == shape and o.color)
        parts.append(f"{' and '.join(colors)} {shape}" if colors else f"no {shape}")
    return " and ".join(parts)


def _places(seen: SeenPicture, caption: Caption) -> str:
    relation = caption.relations[0]
    first, second = caption.groups[relation.first].shape, caption.groups[relation.second].shape
    word = relation_seen(relation, caption.groups, seen.objects)
    if word is None:
        return f"{first} and {second} in no line"
    return f"{first} {word} of {second}" if word in ("left", "right") else f"{first} {word} {second}"


def _shapes(seen: SeenPicture, caption: Caption) -> list[str]:
    """The shapes in the picture, once each: in the order of the prompt, then those that it does not name."""
    shown = [o.shape for o in seen.objects]
    asked = [g.shape for g in caption.groups if g.shape in shown]
    return list(dict.fromkeys([*asked, *sorted(shown)]))


def _number(count: int, shape: str) -> str:
    word = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{word} {shape if count == 1 else plural(shape)}"

"""The model as judge by questions that it could answer before it learnt to assess: of each claim of the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from illume_runtime.enhance.assessment import Assessment, assessment
from illume_runtime.enhance.judge import Drawn
from illume_training.enhancement.checking import caption_of_prompt
from illume_training.world import Caption, Group
from illume_training.world.wording import NUMBERS, plural

Ask = Callable[[Sequence[Drawn], Sequence[str]], list[str]]  # pictures and a question about each -> answers


class Questioner:
    """A score is the share of a dimension's questions that the model answers as the prompt has it."""

    name = "questions"

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def assess(self, pictures: Sequence[Drawn]) -> list[Assessment]:
        """All questions about all pictures are one batch."""
        questions = [questions_of(caption_of_prompt(picture)) for picture in pictures]
        rows = [(picture, text) for picture, some in zip(pictures, questions, strict=True) for _, text, _ in some]
        answers = iter(self._ask([p for p, _ in rows], [q for _, q in rows]))
        return [
            _assessment(picture, [(name, text, want, next(answers).strip()) for name, text, want in some])
            for picture, some in zip(pictures, questions, strict=True)
        ]


def questions_of(caption: Caption) -> list[tuple[str, str, str]]:
    """(dimension, question, answer that the caption wants)."""
    total = sum(group.count for group in caption.groups)
    found = [("object", "how many objects are there?", NUMBERS[min(total, len(NUMBERS) - 1)])]
    counts: Counter[str] = Counter()
    for group in caption.groups:
        counts[group.shape] += group.count
    several = any(group.count > 1 for group in caption.groups)
    for shape, count in counts.items():
        found.append(("count" if several else "object", f"how many {plural(shape)} are there?", NUMBERS[count]))
    for group in caption.groups:
        if group.color is not None:
            article = "an" if group.color[0] in "aeiou" else "a"
            found.append(("color", f"is there {article} {group.color} {group.shape}?", "yes"))
    for relation in caption.relations:
        first, second = caption.groups[relation.first], caption.groups[relation.second]
        word = f"{relation.word} of" if relation.word in ("left", "right") else relation.word
        found.append(("spatial", f"is {_named(first)} {word} {_named(second)}?", "yes"))
    return found


def _named(group: Group) -> str:
    return f"the {group.color} {group.shape}" if group.color else f"the {group.shape}"


def _assessment(picture: Drawn, answered: list[tuple[str, str, str, str]]) -> Assessment:
    dimensions = {}
    for name in dict.fromkeys(name for name, *_ in answered):
        own = [(text, want, got) for dimension, text, want, got in answered if dimension == name]
        wrong = [_plain(f"{text.removesuffix('?')}: {got or 'no answer'}") for text, want, got in own if got != want]
        analysis = " and ".join(wrong) or "all answers are as asked"
        dimensions[name] = 1.0 - len(wrong) / len(own), analysis
    right = sum(got == want for _, _, want, got in answered)
    # Good only where all is right: with one answer wrong of many the share would still be above the bar.
    score = 1.0 if right == len(answered) else 0.499 * right / len(answered)
    words = f"{right} of {len(answered)} answers are as asked"
    return assessment(picture.id, picture.prompt, "questions", dimensions, score, words)


def _plain(text: str) -> str:
    return " ".join(text.replace(".", " ").split())

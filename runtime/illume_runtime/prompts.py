"""What the model reads before it answers: control tokens, text and places for pictures.

A conversation is `begin`, then for each turn `user`, the answer, `end` (docs/bundle.md, Prompts). A prompt ends where
the answer begins. Guidance needs a second prompt with the same pictures and without what the user said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from illume_runtime.errors import UsageError
from illume_runtime.manifest import Vocabulary
from illume_runtime.schedule import TokenRun
from illume_runtime.templates import ControlPart, Prompts, Template, TextPart
from illume_runtime.text import TextTokenizer


@dataclass(frozen=True, slots=True)
class PictureSlot:
    """The place of the request's picture number `index`, which is read as continuous embeddings (`input_block`)."""

    index: int


Part = TokenRun | PictureSlot


@dataclass(frozen=True, slots=True)
class Prompt:
    """Parts in order; runs of tokens never stand side by side."""

    parts: tuple[Part, ...]

    @property
    def num_pictures(self) -> int:
        """How many places for pictures it has."""
        return sum(isinstance(part, PictureSlot) for part in self.parts)

    def num_tokens(self, num_places: Sequence[int]) -> int:
        """Places that it takes in the context, where picture number i takes `num_places[i]`."""
        return sum(len(part.ids) if isinstance(part, TokenRun) else num_places[part.index] for part in self.parts)


@dataclass(frozen=True, slots=True)
class GuidedPrompt:
    """A prompt and the same one without what the user said: the two sides of guidance.

    `constant` tells that the unconditional side is the same for all requests of this size.
    """

    conditional: Prompt
    unconditional: Prompt
    constant: bool = False


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What a user says: text, and pictures in order, each one a place or the tokens of a drawn picture."""

    text: str
    pictures: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerTurn:
    """What the model answered: text, or the tokens of a drawn picture."""

    answer: str | TokenRun


class PromptWriter:
    """Writes the prompts of one bundle."""

    def __init__(self, prompts: Prompts, vocabulary: Vocabulary, tokenizer: TextTokenizer) -> None:
        self._prompts = prompts
        self._vocabulary = vocabulary
        self._tokenizer = tokenizer

    def describe(self, question: str | None = None) -> Prompt:
        """A question about one picture; None asks what the bundle asks by default. Raises UsageError if it is blank."""
        text = self._default("describe") if question is None else _checked(question, "the question")
        return self._conversation([UserTurn(text, (PictureSlot(0),))], unconditional=False)

    def draw(self, prompt: str, tag: Sequence[int] = ()) -> GuidedPrompt:
        """A picture from text, in the size that `tag` names. Raises UsageError if the text is blank."""
        return replace(self._task("draw", UserTurn(_checked(prompt, "the prompt")), tag), constant=True)

    def edit(self, instruction: str, tag: Sequence[int] = ()) -> GuidedPrompt:
        """A change of one picture. Raises UsageError if the instruction is blank."""
        return self._task("edit", UserTurn(_checked(instruction, "the instruction"), (PictureSlot(0),)), tag)

    def reconstruct(self, tag: Sequence[int] = ()) -> GuidedPrompt:
        """The same picture again."""
        return self._task("reconstruct", UserTurn(self._default("reconstruct"), (PictureSlot(0),)), tag)

    def chat(self, turns: Sequence[UserTurn | AnswerTurn]) -> GuidedPrompt:
        """A conversation that the model answers next. Raises UsageError unless users and answers take turns.

        The unconditional side leaves out what the user said in all turns; answers and pictures stay.
        """
        if not turns or not isinstance(turns[-1], UserTurn):
            raise UsageError("the conversation does not end with the user's turn; add one to be answered")
        for number, turn in enumerate(turns):
            if isinstance(turn, UserTurn) != (number % 2 == 0):
                raise UsageError(f"turn {number} of the conversation is out of order; user and assistant take turns")
            if isinstance(turn, UserTurn) and not turn.pictures:
                _checked(turn.text, f"turn {number} of the conversation")
        return self._guided(turns)

    def about_drawn(self, picture: TokenRun, question: str) -> Prompt:
        """A question about a picture that the model drew, without the words that it was drawn from."""
        told = UserTurn(self._prompts.unconditional_text)
        return self._conversation([told, AnswerTurn(picture), UserTurn(question)], unconditional=False)

    def _task(self, task: str, turn: UserTurn, tag: Sequence[int]) -> GuidedPrompt:
        """The turn in the task's own words where the bundle has them, else as any user's turn."""
        templates = self._prompts.tasks.get(task)
        if templates is None:
            return self._guided([turn])
        sides = (templates.conditional, templates.unconditional)
        conditional, unconditional = (
            _joined([*self._filled(self._prompts.begin, "", ()), *self._filled(side, turn.text, turn.pictures, tag)])
            for side in sides
        )
        return GuidedPrompt(Prompt(conditional), Prompt(unconditional))

    def _guided(self, turns: Sequence[UserTurn | AnswerTurn]) -> GuidedPrompt:
        return GuidedPrompt(
            self._conversation(turns, unconditional=False), self._conversation(turns, unconditional=True)
        )

    def _conversation(self, turns: Sequence[UserTurn | AnswerTurn], *, unconditional: bool) -> Prompt:
        """The prompt; `unconditional` puts `unconditional_text` in place of what the user said."""
        parts = self._filled(self._prompts.begin, "", ())
        for turn in turns:
            if isinstance(turn, UserTurn):
                text = self._prompts.unconditional_text if unconditional else turn.text
                parts += self._filled(self._prompts.user, text, turn.pictures)
            else:
                parts.append(self._text(turn.answer) if isinstance(turn.answer, str) else turn.answer)
                parts += self._filled(self._prompts.end, "", ())
        return Prompt(_joined(parts))

    def _filled(self, template: Template, text: str, pictures: Sequence[Part], tag: Sequence[int] = ()) -> list[Part]:
        """The parts of a template. Text is encoded in one piece as far as no control token or picture divides it."""
        parts: list[Part] = []
        words: list[str] = []

        def end_text() -> None:
            if any(words):
                parts.append(self._text("".join(words)))
            words.clear()

        for part in template:
            if isinstance(part, TextPart):
                words.append(part.text)
            elif isinstance(part, ControlPart):
                end_text()
                parts.append(TokenRun((self._vocabulary.control(part.control),)))
            elif part.slot == "text":
                words.append(text)
            elif part.slot == "resolution":
                end_text()
                parts.append(TokenRun(tuple(tag)))
            else:
                for picture in pictures:
                    end_text()
                    parts.append(picture)
                    words.append(part.after)
        end_text()
        return parts

    def _text(self, text: str) -> TokenRun:
        return TokenRun(tuple(self._tokenizer.encode(text)))

    def _default(self, task: str) -> str:
        if task not in self._prompts.defaults:
            raise UsageError(f"this bundle has no default text to {task}; say what you want")
        return self._prompts.defaults[task]


def with_tag(prompt: GuidedPrompt, tag: Sequence[int]) -> GuidedPrompt:
    """The prompt with the tag of a size behind both sides: what a model wrote before it began a picture."""
    run = TokenRun(tuple(tag))
    conditional, unconditional = (
        Prompt(_joined([*side.parts, run])) for side in (prompt.conditional, prompt.unconditional)
    )
    return GuidedPrompt(conditional, unconditional)


def _checked(text: str, what: str) -> str:
    if not text.strip():
        raise UsageError(f"{what} is empty; say what you want")
    return text


def _joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts with runs of tokens that stand side by side made one, and empty ones left out."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, TokenRun) and joined and isinstance(joined[-1], TokenRun):
            joined[-1] = TokenRun(joined[-1].ids + part.ids)
        elif not isinstance(part, TokenRun) or part.ids:
            joined.append(part)
    return tuple(joined)

"""A pipeline that knows the truth: it answers and draws what it was asked for, or something wrong in a known way."""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace

from PIL import Image

from illume_runtime.pipeline import Answer, Picture
from illume_training.evaluation import tasks
from illume_training.world import render


class OraclePipeline:
    """Remembers the scenes and edits that the tasks make, by the words that they make of them.

    `spoil_scene` changes what is drawn, `spoil_answer` what is said; both get the number of the case.
    """

    def __init__(self, monkeypatch, spoil_scene=lambda scene, number: scene, spoil_answer=lambda text, number: text):
        self.bundle = SimpleNamespace(name="oracle")
        self.spoil_scene, self.spoil_answer = spoil_scene, spoil_answer
        self.batches = []  # (verb, size, seed)
        self.asked = 0
        self._scenes = defaultdict(deque)
        self._reconstructed = deque()
        self._answers = defaultdict(deque)
        self._watch(monkeypatch, "caption_of", lambda made, scene, rng: self._scenes[made.text].append(scene))
        self._watch(monkeypatch, "sample_edit", lambda made, *rest: self._scenes[made.text].append(made.target))
        self._watch(monkeypatch, "sample_scene", lambda made, *rest: self._reconstructed.append(made))
        self._watch(monkeypatch, "sample_question", lambda made, *rest: self._answers[made.text].append(made.answer))

    def describe_many(self, images, questions, *, sampling=None):
        self.batches.append(("describe", len(questions), None))
        self._reconstructed.clear()
        texts = [self._spoilt(self.spoil_answer, self._answers[q].popleft()) for q in questions]
        return [Answer(text, (), "end") for text in texts]

    def draw_many(self, prompts, *, sampling):
        self._reconstructed.clear()
        return self._pictures("draw", [self._scenes[prompt].popleft() for prompt in prompts], sampling)

    def edit_many(self, images, instructions, *, sampling):
        assert len(images) == len(instructions)
        return self._pictures("edit", [self._scenes[text].popleft() for text in instructions], sampling)

    def reconstruct_many(self, images, *, sampling):
        return self._pictures("reconstruct", [self._reconstructed.popleft() for _ in images], sampling)

    def _pictures(self, verb, scenes, sampling):
        self.batches.append((verb, len(scenes), sampling.seed))
        scenes = [self._spoilt(self.spoil_scene, scene) for scene in scenes]
        return [Picture(Image.fromarray(render(scene)), (), "", sampling.seed, 0) for scene in scenes]

    def _spoilt(self, spoil, truth):
        self.asked += 1
        return spoil(truth, self.asked - 1)

    def _watch(self, monkeypatch, name, remember):
        original = getattr(tasks, name)

        def watched(*args, **kwargs):
            made = original(*args, **kwargs)
            remember(made, *args)
            return made

        monkeypatch.setattr(tasks, name, watched)

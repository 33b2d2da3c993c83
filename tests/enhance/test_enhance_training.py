"""The experiment with and without a corpus: what its trainings are told, and that its prompts can be judged."""

import json
from dataclasses import replace

from benchmarks import enhance_training
from benchmarks.enhance import prompt_lines, sampled_captions
from illume_training.config import training_config_from_file
from illume_training.enhancement.reading import caption_from_text


def read(tmp_path, side):
    path = tmp_path / f"{side}.toml"
    path.write_text(enhance_training.config_text(7, side, 12, tmp_path / "dialogues", tmp_path / side))
    return training_config_from_file(path)


def test_both_sides_get_the_same_lessons_but_for_the_corpus(tmp_path):
    without, with_corpus = (read(tmp_path, side) for side in ("without", "with"))
    a, b = (config.phases["stage3"] for config in (without, with_corpus))
    assert (a.schedule, a.schedule.steps, without.seed, with_corpus.seed) == (b.schedule, 12, 7, 7)
    assert (a.corpus, b.corpus) == (None, tmp_path / "dialogues")
    assert b.mixture.assess > 0
    assert b.mixture.correct > 0
    assert b.mixture.checklist > 0
    assert a.mixture == replace(b.mixture, checklist=0, assess=0, correct=0)


def test_the_rest_is_the_shipped_configuration(tmp_path):
    shipped, config = training_config_from_file(enhance_training.CONFIG), read(tmp_path, "without")
    others = [name for name in shipped.phases if name != "stage3"]
    assert [config.phases[name] for name in others] == [shipped.phases[name] for name in others]
    assert (config.mixed_precision, config.compile) == (shipped.mixed_precision, shipped.compile)


def test_prompts_can_be_judged():
    lines = prompt_lines(sampled_captions("corpus", 40, "train")).splitlines()
    assert len({json.loads(line)["prompt"] for line in lines}) > 35
    assert all(caption_from_text(json.loads(line)["prompt"]) is not None for line in lines)

"""Stages of one phase in memory at once: the same results, and nothing of another phase beside them."""

import gc
import weakref

import numpy as np
import pytest

from fake_gpu import FakeDevice, fake_gpu
from illume_runtime.errors import UsageError
from illume_runtime.gpu import sessions
from illume_runtime.pipeline import ImageSampling, Pipeline, TextSampling
from illume_runtime.residency import phase_of, phases_of

DRAWING = ImageSampling(seed=3, steps=1)
ANSWER = TextSampling(temperature=0.0, max_tokens=8)
REQUESTS = {
    "describe": lambda pipeline, picture: pipeline.describe(picture, sampling=ANSWER).token_ids,
    "draw": lambda pipeline, picture: images_of(pipeline.draw("a star", n=2, sampling=DRAWING)),
    "edit": lambda pipeline, picture: images_of(pipeline.edit(picture, "red", sampling=DRAWING)),
    "reconstruct": lambda pipeline, picture: images_of([pipeline.reconstruct(picture, sampling=DRAWING)]),
}


def images_of(pictures):
    return [np.asarray(picture.image).tolist() for picture in pictures]


def watched(pipeline):
    """The stages that are in memory whenever one is loaded, and weak references to all sessions."""
    stages, beside, made = pipeline._model.stages, [], []
    open_session = stages.open_session

    def opened(path, spec, device, threads):
        gc.collect()
        beside.append({spec.name, *(session().spec.name for session in made if session() is not None)})
        session = open_session(path, spec, device, threads)
        made.append(weakref.ref(session))
        return session

    stages.open_session = opened
    return beside


def test_phases_are_runs_of_stages_that_work_together():
    order = ["vision_encoder", "decoder", "head_level0", "head_level1", "conditioner", "denoiser", "vae_decoder"]
    assert phases_of(order) == (
        ("vision_encoder",),
        ("decoder", "head_level0", "head_level1"),
        ("conditioner", "denoiser"),
        ("vae_decoder",),
    )


@pytest.mark.parametrize("kind", REQUESTS)
def test_only_the_stages_of_one_phase_are_in_memory(bundle, pipeline, pictures, kind):
    with Pipeline.load(bundle, residency="staged") as staged:
        beside = watched(staged)
        for _ in range(2):
            assert REQUESTS[kind](staged, pictures[0]) == REQUESTS[kind](pipeline, pictures[0])
    assert len(beside) > 2
    assert all(len({phase_of(name) for name in names}) == 1 for names in beside)


def test_all_kinds_of_requests_follow_each_other(bundle, pipeline, pictures):
    with Pipeline.load(bundle, residency="staged") as staged:
        for kind in (*REQUESTS, *reversed(REQUESTS)):
            assert REQUESTS[kind](staged, pictures[1]) == REQUESTS[kind](pipeline, pictures[1])


def test_stages_on_a_gpu_are_given_up_as_well(bundle, pictures, monkeypatch):
    monkeypatch.setattr(sessions, "gpu_sessions", lambda bundle, name: fake_gpu(FakeDevice()))
    with Pipeline.load(bundle, device="cuda") as whole, Pipeline.load(bundle, device="cuda", residency="staged") as gpu:
        beside = watched(gpu)
        for kind in REQUESTS:
            assert REQUESTS[kind](gpu, pictures[0]) == REQUESTS[kind](whole, pictures[0])
    assert all(len({phase_of(name) for name in names}) == 1 for names in beside)


def test_nothing_is_loaded_before_it_is_needed(bundle):
    with Pipeline.load(bundle, residency="staged") as staged:
        assert not staged._model.stages._sessions


def test_another_residency_is_a_usage_error(bundle, illume):
    with pytest.raises(UsageError, match="residency: got 'some', expected one of all, staged"):
        Pipeline.load(bundle, residency="some")
    code, _, err = illume("draw", bundle, "a star", "--residency", "some", "-o", "x.png")
    assert code == 2
    assert "--residency" in err

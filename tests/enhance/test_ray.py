"""Two workers of a local Ray cluster write what one process writes, also where one of them is killed."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
from generation_of_tests import contents, generation

from illume_runtime.enhance import ray_workers
from illume_runtime.enhance.ray_workers import drawn_by_ray
from illume_runtime.enhance.workers import WorkerOptions
from illume_runtime.errors import UnavailableError
from illume_runtime.sampling import ImageSampling


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    options = WorkerOptions("b", "", "cpu", 1, True)
    with pytest.raises(UnavailableError, match=r"pip install 'illume-rt\[ray\]'"):
        next(drawn_by_ray("local", 1, options, ImageSampling(), []))


@pytest.mark.slow
def test_two_workers_write_the_files_of_one_process(corpus, bundle, prompts, tmp_path, illume):
    pytest.importorskip("ray")
    code, _, err = illume(*generation(bundle, prompts, tmp_path / "c", "--ray", "local", "--workers", 2))
    assert code == 0, err
    assert contents(tmp_path / "c") == contents(corpus)


@pytest.mark.slow
def test_what_a_killed_worker_had_is_redone(corpus, bundle, prompts, tmp_path, illume, monkeypatch):
    ray = pytest.importorskip("ray")
    original, killed = ray_workers._drawn, []

    def drawn(ray_, num_workers, options, sampling, batches):
        remote = ray.remote

        def watched(**resources):
            make = remote(**resources)

            def made(kind):
                actor = make(kind)

                class Made:
                    @staticmethod
                    def remote(*args):
                        worker = actor.remote(*args)
                        if not killed:
                            killed.append(ray.get(worker.process.remote()))
                            os.kill(killed[0], signal.SIGKILL)
                        return worker

                return Made

            return made

        monkeypatch.setattr(ray, "remote", watched)
        yield from original(ray_, num_workers, options, sampling, batches)

    monkeypatch.setattr(ray_workers, "_drawn", drawn)
    code, _, err = illume(*generation(bundle, prompts, tmp_path / "c", "--ray", "local", "--workers", 2))
    assert code == 0, err
    assert len(killed) == 1
    assert contents(tmp_path / "c") == contents(corpus)


def test_an_address_where_nothing_answers_is_an_error_of_the_environment(monkeypatch):
    def init(**words):
        raise ConnectionError("refused")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    options = WorkerOptions("b", "", "cpu", 1, True)
    with pytest.raises(UnavailableError, match=r"--ray 10\.0\.0\.1:6379: no Ray cluster answers there: refused"):
        next(drawn_by_ray("10.0.0.1:6379", 1, options, ImageSampling(), []))

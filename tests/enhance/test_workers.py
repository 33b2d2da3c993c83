"""Processes of this machine write what one process writes, also where one of them is killed."""

import multiprocessing
import os
import signal

import pytest
from generation_of_tests import PROMPTS, contents, generation

from illume_runtime.bundle import Bundle
from illume_runtime.enhance import workers
from illume_runtime.enhance.corpus import bundle_sha256
from illume_runtime.enhance.generating import Batch
from illume_runtime.enhance.workers import WorkerOptions, drawn_by_processes
from illume_runtime.errors import InvalidBundleError, UnavailableError, UsageError
from illume_runtime.sampling import ImageSampling

BATCHES = [Batch(number, number, (f"{number}",), (PROMPTS[number],)) for number in range(3)]


@pytest.fixture
def options(bundle):
    """Of workers for the small model."""
    return WorkerOptions(str(bundle), bundle_sha256(Bundle.open(bundle)), "cpu", 1, True)


def test_two_processes_write_the_files_of_one(corpus, bundle, prompts, tmp_path, illume):
    code, _, err = illume(*generation(bundle, prompts, tmp_path / "c", "--workers", 2))
    assert code == 0, err
    assert contents(tmp_path / "c") == contents(corpus)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    "words",
    [["--trace", "t.json"], ["--memory", "1GiB"], ["--residency", "staged"]],
    ids=lambda words: words[0],
)
def test_what_one_process_measures_or_limits_is_refused_beside_workers(bundle, prompts, tmp_path, illume, words):
    code, _, err = illume(*generation(bundle, prompts, tmp_path / "c", "--workers", 2, *words))
    assert code == 2
    assert "--trace, --memory and --residency are of one process" in err
    assert not (tmp_path / "c").exists()


def test_what_a_killed_process_had_is_redone(options):
    whole = dict(drawn_by_processes(1, options, ImageSampling(), BATCHES))
    found, killed = {}, []
    for number, files in drawn_by_processes(2, options, ImageSampling(), BATCHES):
        found[number] = files
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            os.kill(killed[0].pid, signal.SIGKILL)
    assert found == whole
    assert sorted(found) == [0, 1, 2]


def test_a_process_that_is_lost_again_and_again_is_an_error_of_the_environment(options, monkeypatch):
    monkeypatch.setattr(workers, "MAX_LOST", 1)
    monkeypatch.setattr(workers, "_serve", os.abort)  # refuses its arguments: the process ends at once
    with pytest.raises(UnavailableError, match="2 workers were lost, the last one with exit code 1; where memory is"):
        list(drawn_by_processes(1, options, ImageSampling(), BATCHES))


def test_what_a_worker_raises_is_raised_here_and_ends_the_others(options):
    other = WorkerOptions(options.bundle, "0" * 64, "cpu", 1, True)
    with pytest.raises(InvalidBundleError, match="another bundle there"):
        list(drawn_by_processes(2, other, ImageSampling(), BATCHES))
    bad = Batch(3, 3, ("3",), ("word " * 5000,))
    with pytest.raises(UsageError, match="shorten the prompt"):
        list(drawn_by_processes(2, options, ImageSampling(), [*BATCHES, bad]))
    assert multiprocessing.active_children() == []


def test_processes_end_where_nobody_asks_on(options):
    drawing = drawn_by_processes(2, options, ImageSampling(), BATCHES)
    next(drawing)
    assert multiprocessing.active_children()
    drawing.close()
    assert multiprocessing.active_children() == []

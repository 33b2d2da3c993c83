"""The script that changes the source is right about what it counts."""

import json
import shutil
import sys
from pathlib import Path

import mutations
import pytest
from changes import EQUIVALENT
from cpu_device import CUDA, compiled

RESULTS = json.loads(Path(mutations.__file__).with_suffix(".json").read_text())
PASSING, FAILING, NOTHING = ([sys.executable, "-c", f"raise SystemExit({code})"] for code in (0, 1, 5))


@pytest.fixture
def source(tmp_path):
    if compiled() is None:
        pytest.skip("g++ is not installed")
    return shutil.copytree(CUDA, tmp_path / "cuda")


@pytest.mark.parametrize("suite", mutations.SUITES)
def test_every_change_is_possible_and_its_result_is_kept(suite):
    changes = [name for name, _, _ in mutations.mutations(mutations.SUITES[suite])]
    assert len(set(changes)) == len(changes)
    possible = set(changes) - EQUIVALENT.keys()
    assert RESULTS[suite]["changes"] == RESULTS[suite]["of"] == len(possible), "run the script again"
    assert set(RESULTS[suite]["survivors"]) <= possible


def test_a_change_is_noticed_where_tests_fail_and_only_there(source):
    (source / "numbers.cuh").write_text((source / "numbers.cuh").read_text() + "// another\n")
    assert not mutations.is_noticed(source, PASSING)
    assert mutations.is_noticed(source, FAILING)
    with pytest.raises(RuntimeError, match="pytest gave 5, expected 0 or 1"):
        mutations.is_noticed(source, NOTHING)


def test_a_change_that_does_not_compile_counts_as_neither(source, capfd):
    text = (source / "numbers.cuh").read_text()
    change = ("another type", "numbers.cuh", text.replace("constexpr u64 ONE", "constexpr u65 ONE"))
    assert list(mutations.outcomes([change], FAILING)) == [("another type", "INVALID")]
    assert "u65" in capfd.readouterr().err

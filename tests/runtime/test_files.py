"""Output appears whole or not at all."""

import errno
import hashlib

import pytest

from illume_runtime import errors
from illume_runtime.errors import IllumeError, UsageError
from illume_runtime.files import atomic_directory, atomic_write, sha256_of

STOPS = [ValueError, KeyboardInterrupt, SystemExit]


def _write_half(path, error):
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error


def _fill_half(path, error):
    with atomic_directory(path, replace=True) as temporary:
        (temporary / "x").write_text("x")
        raise error


def test_a_file_appears_when_it_is_complete(tmp_path):
    with atomic_write(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"x")
        assert temporary.suffix == ".png"
        assert not (tmp_path / "a.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_write_leaves_the_old_file(tmp_path, stop):
    (tmp_path / "a").write_text("old")
    with pytest.raises(stop):
        _write_half(tmp_path / "a", stop())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.png'"):
        _write_half(tmp_path / "a.png", OSError(errno.ENOSPC, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*gone/a\.png'"):
        _write_half(tmp_path / "gone" / "a.png", OSError("not reached"))


def test_an_unreadable_input_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        (tmp_path / "input").read_bytes()


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with atomic_directory(tmp_path / "new" / "folder") as temporary:
        (temporary / "x").write_text("x")
        assert not (tmp_path / "new" / "folder").exists()
    assert (tmp_path / "new" / "folder" / "x").read_text() == "x"


def test_a_folder_is_replaced_only_if_asked(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    with pytest.raises(UsageError, match=r"a exists already; remove it"), atomic_directory(tmp_path / "a"):
        pass
    with atomic_directory(tmp_path / "a", replace=True) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_folder_leaves_the_old_one(tmp_path, stop):
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "a", tmp_path / "b" / "c"):
        with pytest.raises(stop):
            _fill_half(path, stop())
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_sha256_is_of_all_bytes(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_errors_are_one_line_with_their_exit_code():
    expected = {
        "UsageError": 2, "UnavailableError": 3, "InvalidBundleError": 4, "InvalidCheckpointError": 4, "ExportError": 5,
        "QualityError": 6, "MemoryLimitError": 7, "EngineError": 8, "Cancelled": 130,
    }  # fmt: skip
    found = {kind.__name__: kind.exit_code for kind in IllumeError.__subclasses__()}
    assert found == expected
    assert str(errors.ExportError("first\n  second\n")) == "first second"
    assert issubclass(UsageError, ValueError)

"""Folders that appear only when complete, and the leftovers of killed processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.output import whole_folder

_ROOT = Path(__file__).resolve().parents[2]
_WRITES_FOR_EVER = """
import sys, time
from data.output import whole_folder
with whole_folder(sys.argv[1]) as folder:
    (folder / "shard").write_bytes(b"x" * 100)
    print(folder, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that is writing to OUTPUT: (process, its unfinished folder)."""
    program = _WRITES_FOR_EVER.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "records"],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    folder = Path(process.stdout.readline().strip())
    yield process, folder
    process.kill()
    process.wait()


def _write(output: Path) -> None:
    with whole_folder(output) as folder:
        (folder / "shard").write_text("whole")


def _dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_leftovers_of_a_killed_process_are_removed(tmp_path, writer):
    process, folder = writer
    assert (folder / "shard").stat().st_size == 100
    process.kill()
    process.wait()
    assert folder.exists()
    _write(tmp_path / "records")
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["shard"]


def test_a_folder_being_written_stays(tmp_path, writer):
    _, folder = writer
    _write(tmp_path / "records")
    assert (folder / "shard").stat().st_size == 100


def test_a_folder_written_by_another_container_stays(tmp_path, writer):
    """Its pid does not exist here, but it holds the lock."""
    _, folder = writer
    elsewhere = folder.with_name(f".records.{_dead_pid()}.partial")
    folder.rename(elsewhere)
    _write(tmp_path / "records")
    assert (elsewhere / "shard").stat().st_size == 100


def test_only_leftovers_of_this_output_are_removed(tmp_path):
    pid = _dead_pid()
    left = [
        tmp_path / name for name in (f".records.{pid}.partial", f".records.{os.getpid()}.partial")
    ]
    kept = [
        tmp_path / name
        for name in (f".records2.{pid}.partial", ".records.x.partial", f"records.{pid}.partial")
    ]
    for folder in (*left, *kept):
        folder.mkdir()
        (folder / "shard").touch()
    _write(tmp_path / "records")
    assert not any(folder.exists() for folder in left)
    assert all(folder.exists() for folder in kept)


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "records") as folder:
        (folder / "shard").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def earlier(tmp_path):
    """The output of an earlier conversion."""
    output = tmp_path / "records"
    output.mkdir()
    for name in ("report.json", "schema.pbtxt"):
        (output / name).touch()
    return output


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_output_that_cannot_be_replaced_stays(earlier, tmp_path, monkeypatch):
    rename = Path.rename

    def fails(path, target):
        if path.name.endswith(".partial"):
            raise OSError("full")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="full"), whole_folder(earlier, overwrite=True):
        pass
    assert _names(tmp_path) == ["records"]
    assert _names(earlier) == ["report.json", "schema.pbtxt"]


def test_an_output_that_was_being_replaced_comes_back(earlier, tmp_path):
    between = earlier.rename(tmp_path / ".records.1.earlier")
    with pytest.raises(ZeroDivisionError), whole_folder(earlier):
        raise ZeroDivisionError
    assert _names(tmp_path) == ["records"]
    assert _names(earlier) == ["report.json", "schema.pbtxt"]
    # Or it had been replaced already.
    between.mkdir()
    with whole_folder(earlier, overwrite=True) as folder:
        (folder / "shard").touch()
    assert _names(tmp_path) == ["records"]
    assert _names(earlier) == ["shard"]

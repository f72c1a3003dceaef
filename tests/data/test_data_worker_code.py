"""Workers open only DoFns made with their own versions."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.internal import pickler

from data import worker_code
from data.errors import DataError

_ROOT = Path(__file__).resolve().parents[2]


def test_a_sealed_payload_opens_with_the_same_versions():
    assert pickler.loads(worker_code.sealed(pickler.dumps([1, "two"]))) == [1, "two"]


def test_other_versions_are_refused_before_the_rest_is_unpickled(monkeypatch):
    # As if the worker's code lacked what the job needs.
    sealed = worker_code.sealed(b"unreadable")
    monkeypatch.setattr(worker_code, "versions", lambda: "code 123, TensorFlow 1.0")
    message = r"has code 123, TensorFlow 1\.0; the job was submitted with code \w{12}, Python"
    with pytest.raises(DataError, match=message):
        pickler.loads(sealed)


def test_versions_name_code_python_tensorflow_and_beam():
    pattern = r"code \w{12}, Python 3\.\d+, TensorFlow \d+\.\d+\.\d+, Beam \d+\.\d+\.\d+"
    assert re.fullmatch(pattern, worker_code.versions())


@pytest.mark.parametrize("room", worker_code.ROOMS)
def test_the_hash_sees_a_change_in_every_room(room, tmp_path):
    for name in worker_code.ROOMS:
        (tmp_path / name).mkdir()
        # Otherwise the installed package of this name would come first.
        (tmp_path / name / "__init__.py").touch()
    shutil.copy(_ROOT / "data" / "worker_code.py", tmp_path / "data")
    shutil.copy(_ROOT / "data" / "errors.py", tmp_path / "data")
    before = _versions(tmp_path)
    (tmp_path / room / "module.py").write_text("x = 1\n")
    after = _versions(tmp_path)
    assert before != after
    assert before.partition(",")[2] == after.partition(",")[2]
    (tmp_path / room / "notes.txt").write_text("not code\n")
    assert _versions(tmp_path) == after


def _versions(folder: Path) -> str:
    program = "from data.worker_code import versions; print(versions())"
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return process.stdout


def test_the_rooms_equal_those_in_setup_py():
    assert f"ROOMS = {worker_code.ROOMS}".replace("'", '"') in (_ROOT / "setup.py").read_text()

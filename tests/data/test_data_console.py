import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

# Imitates TensorFlow's libraries, which write to the file descriptor, not to sys.stderr.
LOADED = """
import os

os.write(2, b"found no GPU")
if os.environ.get("BROKEN"):
    raise ImportError("libfoo.so is missing")
"""
PROGRAM = """
import os, sys
from data.console import quiet

quiet({verbose})
quiet({verbose})
import tensorflow
os.write(2, b"a later message")
"""


@pytest.fixture
def stderr_of(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text(LOADED)

    def run(verbose: bool, **environment: str) -> str:
        paths = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(CHECKOUT)))}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM.format(verbose=verbose)],
            env={**os.environ, **paths, **environment},
            capture_output=True,
            text=True,
            check=False,
        ).stderr

    return run


def test_tensorflow_is_silenced_only_during_its_import(stderr_of):
    assert stderr_of(verbose=False) == "a later message"


def test_verbose_shows_the_messages_of_tensorflow(stderr_of):
    assert "found no GPU" in stderr_of(verbose=True)


def test_the_error_of_a_broken_tensorflow_is_shown(stderr_of):
    stderr = stderr_of(verbose=False, BROKEN="1")
    assert "libfoo.so is missing" in stderr
    assert "found no GPU" not in stderr

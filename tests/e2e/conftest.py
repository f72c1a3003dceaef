"""Command lines as a user runs them, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def run_python():
    """Runs `python ARGUMENT...` in the project's folder; gives the finished process."""

    def run_python(*arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    return run_python

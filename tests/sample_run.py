"""Command lines as a user runs them, each in its own process, and a shared run."""

import fcntl
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from data.sample import draw_sample
from pipeline.code_version import code_version
from tests import forked_python

_PICTURES = 44
# Just enough steps to detect anything.
QUICK = (
    "trainer.steps=60",
    "trainer.batch_size=4",
    "trainer.warmup_steps=5",
    "trainer.log_every=20",
)
_LINE = re.compile(r"^(\w+) (done|cached|failed) (?:in|after) ([\d.]+) s", re.MULTILINE)


@pytest.fixture(scope="session")
def run_python():
    """Runs `python ARGUMENT...` in the project's folder; returns the finished process."""
    return forked_python.run


def _new_python(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=forked_python.ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def run():
    """Runs local_runner.py; returns status, output and the state of every component.

    With an output folder it trains for few steps; with None it passes only the arguments.
    """

    def run(output, *arguments, settings=(), run_python=forked_python.run):
        options = [word for value in (*QUICK, *settings) for word in ("--set", value)]
        words = () if output is None else ("--output", output, *options)
        process = run_python("local_runner.py", *words, *arguments)
        assert "Traceback" not in process.stderr, process.stderr
        lines = _LINE.findall(process.stdout)
        return SimpleNamespace(
            status=process.returncode,
            stdout=process.stdout,
            stderr=process.stderr,
            states={name: state for name, state, _ in lines},
            seconds=sum(float(seconds) for *_, seconds in lines),
        )

    return run


@pytest.fixture(scope="session")
def first(run, tmp_path_factory):
    """A complete first run, shared by all pytest workers; `output` is its folder."""
    base = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each worker a subfolder of the shared one.
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    output, result = base / "first", base / "first.json"
    with (base / "first.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            # A smaller data set, where the run would draw its own.
            drawn = output / "sample" / code_version("data.sample") / "sample"
            draw_sample(drawn, images=_PICTURES)
            found = run(output, settings=["evaluator.min_map=0"], run_python=_new_python)
            result.write_text(json.dumps(vars(found)))
    return SimpleNamespace(**json.loads(result.read_text()), output=output)

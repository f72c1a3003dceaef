"""One embedded engine shared by all tests.

Without Java or the jars these tests are not collected; `tests/conftest.py` says so.
"""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engines import local
from tests.engines.running import Engine, free_port, wait_for

_ROOT = Path(__file__).resolve().parents[2]

if local.missing():
    collect_ignore = ["test_engines_jobs.py"]


@pytest.fixture(scope="module", params=["flink", "spark"])
def engine(request, tmp_path_factory) -> Iterator[Engine]:
    """Flink or Spark in Beam's job server, with a pool of workers."""
    logs = tmp_path_factory.mktemp(request.param)
    address = local.Address(job=free_port(), pool=free_port())
    with local.started(request.param, logs, address):
        yield Engine(request.param, address, logs)


@pytest.fixture(scope="module")
def other_pool(tmp_path_factory) -> Iterator[int]:
    """The port of a worker pool whose checkout differs in one line."""
    checkout = tmp_path_factory.mktemp("checkout")
    for room in ("components", "data", "metrics", "pipeline", "serving", "trainer"):
        subprocess.run(["cp", "-r", _ROOT / room, checkout], check=True)
    with (checkout / "data" / "paths.py").open("a") as file:
        file.write("# changed\n")
    port = free_port()
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, "-m", "data.worker_pool", f"--port={port}"], cwd=checkout
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        wait_for(lambda: _listens(port))
        yield port


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("localhost", port)) == 0

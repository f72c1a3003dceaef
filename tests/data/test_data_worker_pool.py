"""The worker pool: it listens on loopback, and its workers end with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

_ROOT = Path(__file__).resolve().parents[2]
_LISTENING = "0A"


@contextmanager
def _running_pool():
    """The process and the port of a pool that runs until the block ends."""
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "data.worker_pool", f"--port={port}"]
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == f"worker pool: waiting for engines on localhost:{port}\n"
    yield process, port
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def pool_port():
    """The port of a running pool."""
    with _running_pool() as (_, port):
        yield port


def _start_worker(port: int) -> None:
    request = beam_fn_api_pb2.StartWorkerRequest(
        worker_id="1-1",
        # Nothing answers there, so the worker keeps trying.
        control_endpoint=endpoints_pb2.ApiServiceDescriptor(url="localhost:9"),
    )
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        assert not stub.StartWorker(request, timeout=20).error


def test_ctrl_c_stops_the_pool():
    with _running_pool() as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_workers_end_with_the_pool():
    with _running_pool() as (process, port):
        _start_worker(port)
        worker = int(process.stdout.readline().rpartition(" ")[2])
        environment = Path(f"/proc/{worker}/environ").read_bytes().decode()
        assert "CUDA_VISIBLE_DEVICES=-1" in environment.split("\0")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_only_this_machine_can_ask_for_workers(pool_port):
    """A client of the pool can run code as this user."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    hosts = {
        row[1].partition(":")[0]
        for row in rows
        if row[3] == _LISTENING and int(row[1].partition(":")[2], 16) == pool_port
    }
    # ::1 and 127.0.0.1, also mapped to IPv6, as the kernel writes them.
    assert hosts
    loopback = ("00000000000000000000000001000000", "0000000000000000FFFF00000100007F", "0100007F")
    assert hosts <= set(loopback)


@pytest.mark.slow
def test_a_port_in_use_is_an_error(pool_port):
    command = [sys.executable, "-m", "data.worker_pool", f"--port={pool_port}"]
    second = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert second.returncode == 2
    assert f"port {pool_port} is in use" in second.stdout

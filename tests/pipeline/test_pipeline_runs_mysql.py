"""Runs read from a real MySQL-compatible server by a read-only user."""

import shutil
import socket
import subprocess
import time

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd

from data.errors import DataError
from pipeline.runs.__main__ import main
from pipeline.runs.store import connect, find_run, mysql_config, read_runs
from tests.pipeline.recorder import Recorder

pytestmark = pytest.mark.skipif(
    shutil.which("mariadbd") is None,
    reason="needs a MySQL server: apt-get install mariadb-server (Debian)",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`server(user)` is the address of a database for that user."""
    folder = tmp_path_factory.mktemp("mysql")
    data, at = folder / "data", ["--no-defaults", f"--socket={folder}/s"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    setup = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    subprocess.run(setup, check=True, capture_output=True)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["mariadbd", *at, f"--datadir={data}", "--user=root", f"--port={port}"],
            stdout=log,
            stderr=log,
        )
    statements = """
        create database mlmd;
        create user 'writer'@'%' identified by 'p:w@d'; grant all on mlmd.* to 'writer'@'%';
        create user 'reader'@'%' identified by 'p:w@d'; grant select on mlmd.* to 'reader'@'%';
    """
    try:
        until = time.monotonic() + 30
        while subprocess.run(
            ["mariadb", *at, "--user=root", "-e", statements], capture_output=True
        ).returncode:
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.1)
        yield lambda user: f"mysql://{user}:p%3Aw%40d@127.0.0.1:{port}/mlmd"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def recorded(server, tmp_path_factory):
    """The same runs in MySQL and in an SQLite file."""
    folder = tmp_path_factory.mktemp("runs")
    for config in (mysql_config(server("writer")), None):
        recorder = Recorder(folder, config)
        recorder.run("2026-01-01")
        examples = recorder.artifact("Examples", "/x/examples", fingerprint="f" * 2000)
        recorder.step("ImportExampleGen", (), {"examples": examples}, input_base="/records")
        model = recorder.artifact("Model", "/x/model")
        recorder.step("Trainer", {"examples": examples}, {"model": model}, steps=100)
        recorder.run("2026-01-02")
        recorder.step("Trainer", {"examples": examples}, state=mlmd.Execution.FAILED)
    return folder / "metadata.sqlite"


def _steps(runs):
    return [
        [(s.component, s.state, s.parameters, s.inputs, s.outputs) for s in run.steps]
        for run in runs
    ]


def test_mysql_gives_a_reader_the_same_runs_as_sqlite(server, recorded):
    runs = read_runs(connect(server("reader")))
    assert [run.id for run in runs] == ["2026-01-01", "2026-01-02"]
    (examples,) = find_run(runs, "1").step("Trainer").inputs["examples"]
    assert examples.properties == {"fingerprint": "f" * 2000}
    assert _steps(runs) == _steps(read_runs(connect(str(recorded))))


def test_the_command_reads_mysql(server, recorded, capsys):
    assert main(["--metadata", server("reader"), "show", "2"]) == 0
    assert "Trainer: failed" in capsys.readouterr().out


def test_the_error_for_a_wrong_password_does_not_contain_it(server, recorded):
    address = server("reader").replace("p%3Aw", "other")
    with pytest.raises(DataError, match="cannot be opened") as refused:
        connect(address)
    assert "other" not in str(refused.value)

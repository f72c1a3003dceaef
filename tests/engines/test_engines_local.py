"""What `make flink` needs and prints, without an engine."""

import contextlib
import os
import socket

import pytest

from data.beam_runner import python_path
from data.errors import DataError
from data.flink_rest import PORTS
from engines import local


@pytest.fixture
def no_programs(monkeypatch, tmp_path):
    """A machine without Java, Maven and jars."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local, "_TOOLS", tmp_path / "tools")
    return tmp_path


def _program(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_missing_parts_are_named(no_programs):
    assert local.missing() == "no Java"
    _program(no_programs, "java", "")
    assert local.missing() == "no jars for flink and spark"
    local.jars("flink").mkdir(parents=True)
    assert local.missing() == "no jars for spark"
    local.jars("spark").mkdir(parents=True)
    assert local.missing() == ""


@pytest.mark.parametrize("engine", local.ENGINES)
def test_without_maven_or_java_the_package_is_named(no_programs, capsys, engine):
    assert local.main([engine]) == 2
    assert "apt-get install maven" in capsys.readouterr().err
    local.jars(engine).mkdir(parents=True)
    assert local.main([engine]) == 2
    assert "openjdk-17" in capsys.readouterr().err


def test_a_failed_download_leaves_nothing(no_programs, capsys):
    _program(no_programs, "mvn", "echo '[ERROR] Could not resolve beam'; exit 1")
    assert local.main(["flink", "--fetch"]) == 2
    assert "Maven failed: [ERROR] Could not resolve beam" in capsys.readouterr().err
    assert not local.jars("flink").exists()


def test_jars_appear_only_when_complete(no_programs):
    script = (
        'for word; do case $word in -DoutputDirectory=*) /bin/mkdir -p "${word#*=}";; esac; done'
    )
    _program(no_programs, "mvn", script)
    assert local.main(["flink", "--fetch"]) == 0
    assert [path.name for path in local.jars("flink").parent.iterdir()] == ["flink"]


@pytest.mark.slow
def test_a_port_in_use_or_an_engine_that_fails_to_start_is_an_error(no_programs, tmp_path):
    _program(no_programs, "java", "echo 'no such class'; exit 1")
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with (
            pytest.raises(DataError, match=f"port {port} is in use"),
            local.started("flink", tmp_path / "logs", local.Address(job=port)),
        ):
            pass
    free = local.Address(*_free_ports(2))
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with (
            pytest.raises(DataError, match=f"port {port} is in use"),
            local.started("flink", tmp_path / "logs", local.Address(_free_ports(1)[0], port)),
        ):
            pass
    with (
        pytest.raises(DataError, match=r"java did not start: no such class\. See .*server\.log"),
        local.started("flink", tmp_path / "logs", free),
    ):
        pass
    with socket.socket() as sock:
        # The pool had started and is stopped again.
        assert sock.connect_ex(("localhost", free.pool)) != 0


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("localhost", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


_ADDRESS = local.Address(job=4001, pool=4002)


@pytest.mark.parametrize("engine", local.ENGINES)
def test_pool_and_job_server_use_the_given_ports(no_programs, monkeypatch, engine):
    _program(no_programs, "java", "")
    running = []

    @contextlib.contextmanager
    def start(command, log, port, environment):
        assert environment["PYTHONPATH"] == python_path()
        running.append((command, log.name, port))
        yield

    monkeypatch.setattr(local, "_running", start)
    with local.started(engine, no_programs / "logs", _ADDRESS):
        (pool, *of_pool), (server, *of_server) = running
    assert of_pool == ["workers.log", 4002] and of_server == ["job-server.log", 4001]
    assert pool[1:] == ["-m", "data.worker_pool", "--port=4002"]
    assert "--job-port=4001" in server
    cores = len(os.sched_getaffinity(0))
    if engine == "spark":
        # With more than one attempt, a lost worker does not end the job.
        assert f"--spark-master-url=local[{cores},4]" in server
    else:
        conf = (no_programs / "logs" / "flink-conf.yaml").read_text()
        assert f"parallelism.default: {cores}\n" in conf
        assert f"rest.bind-port: {PORTS[0]}-{PORTS[-1]}\n" in conf
        assert f"--flink-conf-dir={no_programs / 'logs'}" in server


def test_printed_commands_name_ports_other_than_the_defaults(tmp_path):
    usual = local._ready("flink", local.Address(), tmp_path)
    assert usual.count("--beam flink\n") == 2
    options = " -- --job_endpoint=localhost:4001 --environment_config=localhost:4002\n"
    assert local._ready("spark", _ADDRESS, tmp_path).count(f"--beam spark{options}") == 2

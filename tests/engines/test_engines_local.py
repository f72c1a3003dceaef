"""What `make flink` needs and prints, without an engine."""

import socket

import pytest

from data.errors import DataError
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

"""The life of a server process: flags, start, new and broken versions, shutdown."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving import server as server_module
from serving.model_server import servable
from serving.model_server.status import StatusError
from serving.server import Server, main, parse_flags


def _wait(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_flags_and_their_defaults():
    flags = vars(parse_flags(["--model_base_path=/m", "--rest_api_port", "8501"]))
    # TensorFlow Serving's defaults, except for the last group.
    assert {name: value for name, value in flags.items() if value is not None} == {
        "model_name": "default",
        "model_base_path": Path("/m"),
        "model_config_file_poll_wait_seconds": 0,
        "rest_api_port": 8501,
        "port": 0,
        "rest_api_num_threads": 4 * os.cpu_count(),
        "rest_api_timeout_in_ms": 30_000,
        "rest_api_enable_cors_support": False,
        "file_system_poll_wait_seconds": 1,
        "max_num_load_retries": 5,
        "load_retry_interval_micros": 60_000_000,
        "enable_model_warmup": True,
        "allow_version_labels_for_unavailable_models": False,
        "host": "127.0.0.1",
        "max_body_bytes": 32 * 2**20,
        "max_requests": 64,
        "drain_seconds": 20,
        "enable_page": True,
        "verbose": False,
    }
    flags = parse_flags(["--model_base_path=/m", "--port=1", "--enable_page=false"])
    assert flags.enable_page is False


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model_base_path=/m"],
        ["--rest_api_port=1"],
        ["--model_base_path=/m", "--rest_api_port=1", "--ssl_config_file=f"],
        ["--model_base_path=/m", "--rest_api_por=1"],
        ["--model_base_path=/m", "--rest_api_port=1", "--enable_page=perhaps"],
    ],
)
def test_missing_and_unknown_flags(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_flags(arguments)
    assert ended.value.code == 2


def test_flags_without_effect_are_accepted_with_a_warning(capsys):
    flags = ["--enable_batching", "--tensorflow_session_parallelism=2", "--grpc_max_threads", "4"]
    parse_flags(["--model_base_path=/m", *flags, "--port=1", "--enable_batching=true"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: no effect in this server: ")
    assert line.count("--") == 3
    for flag in ("enable_batching", "tensorflow_session_parallelism", "grpc_max_threads"):
        assert f"--{flag}" in line
    parse_flags(["--model_base_path=/m", "--port=1"])
    assert capsys.readouterr().err == ""


def test_limits_are_passed_on(monkeypatch, tmp_path):
    flags = ["--rest_api_num_threads=3", "--rest_api_timeout_in_ms=1500", "--max_requests=7"]
    flags += ["--max_body_bytes=99", "--max_num_load_retries=4", "--enable_model_warmup=false"]
    flags += ["--load_retry_interval_micros=2500000", "--rest_api_port=1", "--model_name=pets"]
    server = Server(parse_flags([f"--model_base_path={tmp_path}", *flags]))
    backend, manager = server._backend, server._backend.manager
    assert backend.executor._max_workers == 3
    assert (backend.timeout_s, backend.places.limit, backend.max_body_bytes) == (1.5, 7, 99)
    assert (manager._max_load_retries, manager._retry_interval_s) == (4, 2.5)
    (config,) = server._read_models()
    assert (config.name, config.base_path) == ("pets", tmp_path)
    rest = server._rest
    assert (rest._page, rest._metrics_path, rest._headers) == (True, None, {})
    loaded = []
    monkeypatch.setattr(servable, "Servable", lambda *given: loaded.append(given))
    manager._load(tmp_path)
    assert loaded == [(tmp_path, False)]


def test_configuration_files_and_switches_are_applied(tmp_path):
    log = "logging_config { log_collector_config { type: 'tfrecord' filename_prefix: 'p' }"
    (tmp_path / "models.config").write_text(
        f"model_config_list {{ config {{ name: 'a' base_path: '{tmp_path}' {log} "
        "sampling_config { sampling_rate: 0.5 } } } }"
    )
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true path: '/m' }")
    flags = [f"--model_config_file={tmp_path / 'models.config'}", "--port=1"]
    flags += [f"--monitoring_config_file={tmp_path / 'monitoring.config'}"]
    flags += ["--enable_page=false", "--rest_api_enable_cors_support"]
    server = Server(parse_flags(flags))
    rest, backend = server._rest, server._backend
    assert (rest._page, rest._metrics_path) == (False, "/m")
    assert rest._headers["Access-Control-Allow-Origin"] == "*"
    assert backend.manager.model_names == list(backend.logs._logs) == ["a"]


@pytest.mark.parametrize(("every_s", "read"), [(0, []), (10, [10, 20])])
def test_the_configuration_is_polled_at_its_interval(monkeypatch, tmp_path, capsys, every_s, read):
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ config {{ name: 'a' base_path: '{tmp_path}' }} }}")
    flags = [f"--model_config_file={config}", "--port=1", "--file_system_poll_wait_seconds=2"]
    server = Server(parse_flags([*flags, f"--model_config_file_poll_wait_seconds={every_s}"]))
    seen = {"configure": [], "poll": [], "finish_due": []}
    now = 0.0

    def wait(seconds):
        nonlocal now
        now += seconds
        return now > 25

    def configure(models):
        seen["configure"].append(now)
        raise StatusError("FAILED_PRECONDITION", f"no label for {models[0].name}")

    monkeypatch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: now))
    server._stopping = SimpleNamespace(wait=wait)
    backend = server._backend
    monkeypatch.setattr(backend, "configure", configure)
    monkeypatch.setattr(backend.manager, "poll", lambda: seen["poll"].append(now))
    monkeypatch.setattr(backend.logs, "finish_due", lambda: seen["finish_due"].append(now))
    server._poll()
    assert seen["configure"] == read
    assert seen["poll"] == seen["finish_due"] == list(range(2, 25, 2))
    told = "configuration not applied: FAILED_PRECONDITION: no label for a\n"
    assert capsys.readouterr().err == (told if read else ""), "reported once"


def test_a_stopping_server_finishes_its_logs_last(monkeypatch, tmp_path, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(parse_flags([f"--model_base_path={tmp_path}", f"--rest_api_port={port}"]))
    states = []
    monkeypatch.setattr(server._backend.logs, "close", lambda: states.append(_refuses(port)))

    async def serve_and_stop():
        serving = asyncio.ensure_future(server.serve())
        while _refuses(port):
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await serving

    handler = signal.getsignal(signal.SIGTERM)
    try:
        asyncio.run(serve_and_stop())
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert states == [True]
    assert f"serving default: REST at 127.0.0.1:{port}\nstopping" in capsys.readouterr().out


@pytest.mark.slow
def test_new_versions_broken_versions_and_removed_versions(start_server, save_adder, tmp_path):
    base = tmp_path / "adder"
    server = start_server(
        "--model_name=adder",
        f"--model_base_path={base}",
        "--file_system_poll_wait_seconds=0.1",
        "--load_retry_interval_micros=100000",
        "--max_num_load_retries=1",
        wait=False,
    )
    _wait(lambda: "waiting for a version of adder" in server.log.read_text(), 60)
    assert f"{base} (no such folder)" in server.log.read_text()
    base.mkdir()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    save_adder(tmp_path / "ready", 1)
    (tmp_path / "ready").rename(base / "1")
    _wait(lambda: "serving adder" in server.log.read_text())

    def states():
        found = json.loads(server.request("GET", "/v1/models/adder")[2])["model_version_status"]
        return {int(version["version"]): version for version in found}

    def answer():
        return server.predict("adder", instances=[0])

    assert answer() == {"predictions": [1.0]}
    save_adder(tmp_path / "ready", 2)
    (tmp_path / "ready").rename(base / "2")
    _wait(lambda: answer() == {"predictions": [2.0]})
    _wait(lambda: states()[1]["state"] == "END")

    (base / "3").mkdir()
    (base / "3" / "saved_model.pb").write_bytes(b"not a model")
    _wait(lambda: states().get(3, {}).get("state") == "END")
    assert states()[3]["status"]["error_code"] == "DATA_LOSS"
    assert answer() == {"predictions": [2.0]}

    save_adder(tmp_path / "ready", 4)
    (tmp_path / "ready").rename(base / "4")
    _wait(lambda: answer() == {"predictions": [4.0]})

    for version in "1234":
        (base / version).rename(tmp_path / f"removed-{version}")
    _wait(lambda: answer() == {"error": "model adder has no version in service"})
    assert server.stop() == 0


def _refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
def test_sigterm_finishes_requests_in_flight_in_bounded_time(start_server, save_sleeper, tmp_path):
    save_sleeper(tmp_path / "sleeper" / "1")
    server = start_server(
        "--model_name=sleeper",
        f"--model_base_path={tmp_path / 'sleeper'}",
        "--rest_api_num_threads=3",
        "--drain_seconds=5",
    )
    # Two running requests, of which one ends in time; a half-sent one; an idle connection.
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(server.predict("sleeper", instances=[1.5]))
    )
    asking.start()
    endless = http.client.HTTPConnection("127.0.0.1", server.port)
    endless.request("POST", "/v1/models/sleeper:predict", json.dumps({"instances": [60]}))
    idle = http.client.HTTPConnection("127.0.0.1", server.port)
    idle.request("GET", "/v1/models/sleeper")
    assert idle.getresponse().read()
    body = b'{"instances": [0]}'
    late = socket.create_connection(("127.0.0.1", server.port))
    late.sendall(
        b"POST /v1/models/sleeper:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body[:5]
    )
    time.sleep(0.5)
    server.process.terminate()
    start = time.monotonic()
    _wait(lambda: _refuses(server.port))
    assert "stopping" in server.log.read_text()
    late.sendall(body[5:])
    late.settimeout(10)
    assert b'{"predictions":[0.0]}' in late.recv(1000)
    asking.join()
    assert answers == [{"predictions": [1.5]}]
    assert server.process.wait(20) == 0
    assert 4.5 < time.monotonic() - start < 15
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        endless.getresponse()


def _complete(folder):
    folder.mkdir()
    (folder / "saved_model.pb").write_text("")


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        (_complete, 2, "is a single version"),
        (lambda folder: (folder / "1").mkdir(parents=True), 255, "has no saved_model.pb"),
    ],
)
def test_a_failed_start_says_why(monkeypatch, capsys, tmp_path, make, status, message):
    make(tmp_path / "m")
    flags = [f"--model_base_path={tmp_path / 'm'}", "--max_num_load_retries=0", "--port=1"]
    monkeypatch.setattr("sys.argv", ["server", *flags])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main() == status
    finally:
        signal.signal(signal.SIGTERM, handler)
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert message in captured.err


@pytest.mark.slow
def test_answers_equal_those_of_tensorflow_serving(start_server, tmp_path):
    """Compares with answers recorded from TensorFlow Serving 2.16.1."""
    recorded = os.environ.get("SERVING_VECTORS")
    if not recorded:
        pytest.skip("set SERVING_VECTORS to the folder of vectors.json, check.py, make_models.py")
    recorded = Path(recorded)
    subprocess.run([sys.executable, recorded / "make_models.py", tmp_path], check=True)
    config = (recorded / "models.config").read_text().replace("@", str(tmp_path))
    (tmp_path / "models.config").write_text(config)
    server = start_server("--model_config_file", tmp_path / "models.config")
    check = [sys.executable, recorded / "check.py", str(server.port), recorded / "vectors.json"]
    report = subprocess.run(check, capture_output=True, text=True, check=True).stdout
    *differing, summary = report.splitlines()
    met, total = map(int, summary.split()[0].split("/"))
    statuses = int(summary.split(",")[1].split("/")[0])
    assert statuses == total, report
    # An accepted difference: a float32 denormal is not flushed to zero.
    assert [line.split()[0] for line in differing] in ([], ["http/float-format"]), report

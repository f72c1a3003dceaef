"""Cancelling on Flink, with a fake of Flink's REST API."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from data import flink_rest


class _Flink(BaseHTTPRequestHandler):
    """Two jobs; a cancelled one ends after two more requests."""

    def do_GET(self):
        if self.path == "/jobs/id-mine/exceptions":
            self._answer({"exceptionHistory": {"entries": self.server.failures}})
            return
        assert self.path == "/jobs/overview"
        states = self.server.states
        jobs = [{"jid": f"id-{name}", "name": name, "state": s[0]} for name, s in states.items()]
        for state in states.values():
            if len(state) > 1 and state[0] == "CANCELLING":
                state.pop(0)
        self._answer({"jobs": jobs})

    def do_PATCH(self):
        self.server.cancelled.append(self.path)
        name = self.path.split("/")[2].partition("?")[0].removeprefix("id-")
        self.server.states[name][:] = self.server.after
        self._answer({})

    def _answer(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def flink():
    server = HTTPServer(("localhost", 0), _Flink)
    server.states = {"mine": ["RUNNING"], "other": ["RUNNING"]}
    server.cancelled = []
    server.failures = []
    server.after = ["CANCELLING", "CANCELLING", "CANCELED"]
    server.address = f"localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_cancel_waits_for_the_end_of_the_job(flink):
    # Nothing listens on the first address.
    assert flink_rest.cancel(["localhost:9", flink.address], "mine", 20) == "CANCELED"
    assert flink.cancelled == ["/jobs/id-mine?mode=cancel"]
    assert flink.states["other"] == ["RUNNING"]


def test_the_wait_is_bounded(flink):
    flink.after = ["CANCELLING"]
    assert flink_rest.cancel([flink.address], "mine", 0.5) == "CANCELLING"


def test_cancelling_an_unknown_job(flink):
    assert flink_rest.cancel([flink.address, "localhost:9"], "another", 20) is None
    assert flink.cancelled == []


def test_the_last_failure_of_the_job(flink):
    assert flink_rest.failure([flink.address], "mine") is None
    flink.failures = [{"stacktrace": "the last"}, {"stacktrace": "the first"}]
    assert flink_rest.failure(["localhost:9", flink.address], "mine") == "the last"
    assert flink_rest.failure([flink.address], "another") is None
    assert flink_rest.failure(["localhost:9"], "mine") is None


@pytest.mark.parametrize(
    ("master", "endpoint", "first", "count"),
    [
        ("flink:8081", "jobs:8099", "flink:8081", 1),
        ("http://flink:8081/", "jobs:8099", "flink:8081", 1),
        ("[auto]", "jobs:8099", "jobs:8081", 1),
        (None, "localhost:8099", "localhost:8081", 9),
    ],
)
def test_possible_addresses_of_flink(master, endpoint, first, count):
    found = flink_rest.addresses(master, endpoint)
    assert found[0] == first
    assert len(found) == count

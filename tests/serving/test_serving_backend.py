"""Running a model for several requests at once."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.model_server.backend import Backend
from serving.model_server.metrics import Metrics
from serving.model_server.pictures import MAX_PIXELS
from serving.model_server.request_log import RequestLogs
from serving.model_server.status import StatusError, invalid

_CORES = len(os.sched_getaffinity(0))


class _Model:
    """Answers once `together` requests run; remembers which of them found the cores busy."""

    def __init__(self, together: int):
        self.found: list[bool] = []
        self._all = threading.Barrier(together)

    def run(self, signature, inputs, outputs, busy):
        self.found.append(busy)
        self._all.wait(10)
        if signature == "refused":
            raise invalid("no")
        return {}


@pytest.fixture
def backend():
    return Backend(None, Metrics(), RequestLogs([]), None, 1000, 8, 1.0)


def test_only_runs_beyond_the_number_of_cores_get_one_thread(backend):
    model = _Model(_CORES + 1)
    with ThreadPoolExecutor(_CORES + 1) as threads:
        for _ in range(_CORES + 1):
            threads.submit(backend.run, "m", 1, model, "", {})
    assert sorted(model.found) == [False] * (_CORES - 1) + [True] * 2


def _pictures(monkeypatch, pixels: int) -> dict:
    """Inputs that count as this many pixels."""
    monkeypatch.setattr(
        "serving.model_server.backend.count_pixels", lambda arrays: sum(map(int, arrays))
    )
    return {"pixels": pixels}


def test_requests_whose_pictures_do_not_fit_together_run_one_by_one(backend, monkeypatch):
    inputs = _pictures(monkeypatch, MAX_PIXELS // 2 + 1)
    running = []

    class Model:
        def run(self, *_):
            running.append(True)
            most.append(len(running))
            time.sleep(0.05)
            running.pop()
            return {}

    most: list[int] = []
    with ThreadPoolExecutor(4) as threads:
        for answer in [threads.submit(backend.run, "m", 1, Model(), "", inputs) for _ in range(4)]:
            answer.result()
    assert most == [1] * 4


def test_a_request_times_out_waiting_for_the_pictures_of_others(backend, monkeypatch):
    backend.timeout_s = 0.05
    inputs = _pictures(monkeypatch, MAX_PIXELS)
    started, end = threading.Event(), threading.Event()

    class Model:
        def run(self, *_):
            started.set()
            end.wait(10)
            return {}

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(backend.run, "m", 1, Model(), "", inputs)
        started.wait(10)
        with pytest.raises(StatusError, match="UNAVAILABLE"):
            backend.run("m", 1, _Model(1), "", {"pixels": 1})
        assert backend.run("m", 1, _Model(1), "", {"pixels": 0}) == {}
        end.set()
        running.result()
    assert backend.run("m", 1, _Model(1), "", {"pixels": 1}) == {}


def test_a_failed_run_no_longer_counts_as_running(backend):
    for _ in range(2 * _CORES):
        model = _Model(1)
        with pytest.raises(StatusError):
            backend.run("m", 1, model, "refused", {})
    assert model.found == [_CORES == 1]

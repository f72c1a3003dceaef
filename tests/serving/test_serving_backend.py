"""How the server runs models when there are several requests at once."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.backend import Backend
from serving.metrics import Metrics
from serving.request_log import RequestLogs
from serving.status import StatusError, invalid

_CORES = len(os.sched_getaffinity(0))


class _Model:
    """Answers when as many requests run as it waits for; remembers which found the cores busy."""

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


def test_only_runs_beyond_the_cores_are_kept_to_one_thread(backend):
    model = _Model(_CORES + 1)
    with ThreadPoolExecutor(_CORES + 1) as threads:
        for _ in range(_CORES + 1):
            threads.submit(backend.run, "m", 1, model, "", {})
    assert sorted(model.found) == [False] * (_CORES - 1) + [True] * 2


def test_a_run_that_fails_is_over(backend):
    for _ in range(2 * _CORES):
        model = _Model(1)
        with pytest.raises(StatusError):
            backend.run("m", 1, model, "refused", {})
    assert model.found == [_CORES == 1]

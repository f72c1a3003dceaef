"""What REST and gRPC share: the models, the threads that run them, their limits and records."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from serving.manager import ModelManager
from serving.metrics import Metrics
from serving.request_log import RequestLogs
from serving.servable import Servable


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server before it is refused."""

    max_body_bytes: int = 32 * 2**20  # after decompression, too
    max_requests: int = 64  # being received, waiting or running
    timeout_s: float = 30.0  # to receive a request, and to answer it


class Backend:
    """The parts of a server that do not depend on how it is asked."""

    def __init__(
        self,
        manager: ModelManager,
        metrics: Metrics,
        logs: RequestLogs,
        limits: Limits,
        executor: ThreadPoolExecutor,
    ):
        self.manager = manager
        self.metrics = metrics
        self.logs = logs
        self.limits = limits
        self.executor = executor
        self.places = threading.Semaphore(limits.max_requests)
        self._lock = threading.Lock()
        self._running = 0

    def run(
        self,
        model: str,
        version: int,
        servable: Servable,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Runs a signature of a version lent by the manager; it is timed, and logged if sampled."""
        start = time.perf_counter()
        with self._counted() as running:
            answer = servable.run(signature, inputs, outputs, busy=running >= os.cpu_count())
        self.metrics.run(model, time.perf_counter() - start)
        self.logs.add(model, version, signature, inputs, answer)
        return answer

    @contextlib.contextmanager
    def _counted(self) -> Iterator[int]:
        """How many runs there are, this one included."""
        with self._lock:
            self._running += 1
            running = self._running
        try:
            yield running
        finally:
            with self._lock:
                self._running -= 1

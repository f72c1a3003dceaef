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
from serving.status import StatusError


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server before it is refused."""

    max_body_bytes: int = 32 * 2**20  # after decompression, too
    max_requests: int = 64  # being received, waiting or running
    timeout_s: float = 30.0  # to receive a request, and to answer it


@dataclass
class Backend:
    """The parts of a server that do not depend on how it is asked."""

    manager: ModelManager
    metrics: Metrics
    logs: RequestLogs
    limits: Limits
    executor: ThreadPoolExecutor

    def __post_init__(self):
        self.places = threading.Semaphore(self.limits.max_requests)
        self._cores = len(os.sched_getaffinity(0))
        self._lock = threading.Lock()
        self._running = 0

    @contextlib.contextmanager
    def timed(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts what is done meanwhile as one request to the model, by how it ends."""
        start = time.perf_counter()
        code = "CANCELLED"
        try:
            yield
            code = "OK"
        except StatusError as error:
            code = error.code
            raise
        finally:
            if model in self.manager.model_names:
                self.metrics.request(model, api, entrypoint, code, time.perf_counter() - start)

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
            answer = servable.run(signature, inputs, outputs, busy=running >= self._cores)
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

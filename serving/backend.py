"""What REST and gRPC share: the models, the threads that run them, their limits and records."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Backend:
    """The parts of a server that do not depend on how it is asked."""

    manager: ModelManager
    metrics: Metrics
    logs: RequestLogs
    limits: Limits
    executor: ThreadPoolExecutor
    places: threading.Semaphore = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "places", threading.Semaphore(self.limits.max_requests))

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
        answer = servable.run(signature, inputs, outputs)
        self.metrics.run(model, time.perf_counter() - start)
        self.logs.add(model, version, signature, inputs, answer)
        return answer

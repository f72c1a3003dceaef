"""What REST and gRPC share: models, threads, limits, metrics and logs."""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from google.protobuf.message import Message
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.model_server.budget import Budget
from serving.model_server.manager import ModelManager
from serving.model_server.metrics import Metrics
from serving.model_server.model_config import ModelConfig
from serving.model_server.pictures import MAX_PIXELS, count_pixels
from serving.model_server.request_log import RequestLogs
from serving.model_server.servable import Arrays, Servable
from serving.model_server.status import StatusError

# Memory for request bodies, in bodies of the maximum size.
_LARGEST_BODIES = 8


class Claim:
    """What a request holds: memory for its body, and a place in the queue."""

    def __init__(self, memory: Budget, places: Budget) -> None:
        self._memory, self._places = memory, places
        self._bytes = self._place = 0

    def add_bytes(self, count: int) -> None:
        """Takes memory for more bytes of the body; StatusError if there is none left."""
        if not self._memory.take(count):
            self.release()  # at once: the other bodies then fit
            raise StatusError("UNAVAILABLE", "the bodies of other requests take all the memory")
        self._bytes += count

    def take_place(self) -> None:
        """Enters the queue; StatusError if it is full."""
        if not self._places.take(1):
            raise StatusError("UNAVAILABLE", "too many requests in the queue")
        self._place = 1

    def release(self) -> None:
        """Gives everything back, once the request is done."""
        self._memory.give_back(self._bytes)
        self._places.give_back(self._place)
        self._bytes = self._place = 0


@dataclass
class Backend:
    """The protocol-independent part of a server."""

    manager: ModelManager
    metrics: Metrics
    logs: RequestLogs
    executor: ThreadPoolExecutor
    max_body_bytes: int  # also after decompression
    max_requests: int  # queued or running
    timeout_s: float  # to receive a request, and to answer it

    def __post_init__(self) -> None:
        self.places = Budget(self.max_requests)
        self.memory = Budget(_LARGEST_BODIES * self.max_body_bytes)
        self._pixels = Budget(MAX_PIXELS)
        self._cores = len(os.sched_getaffinity(0))
        self._lock = threading.Lock()
        self._running = 0

    def configure(self, models: Iterable[ModelConfig]) -> None:
        """Serves these models; raises StatusError and changes nothing if that is refused."""
        models = list(models)
        self.manager.configure(models)
        self.logs.configure(models)

    def claim(self) -> Claim:
        """An empty claim for a new request; the caller releases it."""
        return Claim(self.memory, self.places)

    @contextlib.contextmanager
    def timed(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts the block as one request to the model, by its final status."""
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
        inputs: Arrays,
        outputs: Sequence[str] = (),
    ) -> Arrays:
        """Runs a signature of a version lent by the manager; times it, and logs it if sampled.

        Waits until the pictures of all running requests have at most MAX_PIXELS together.
        """
        pixels = count_pixels(inputs.values())
        if not self._pixels.take(pixels, self.timeout_s):
            raise StatusError("UNAVAILABLE", "the pictures of other requests take all the memory")
        try:
            start = time.perf_counter()
            with self._lock:
                self._running += 1
                busy = self._running >= self._cores
            try:
                answer = servable.run(signature, inputs, outputs, busy)
            finally:
                with self._lock:
                    self._running -= 1
            self.metrics.run(model, time.perf_counter() - start)
            self.logs.add(model, version, signature, inputs, answer)
            return answer
        finally:
            self._pixels.give_back(pixels)

    def metadata(self, name: str, number: int | None, label: str | None) -> Message:
        """GetModelMetadataResponse of a version; StatusError if it is not loaded."""
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self.manager.use(name, number, label) as (number, servable):
            response.model_spec.name = name
            response.model_spec.version.value = number
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
            response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, name: str, number: int | None) -> Message:
        """GetModelStatusResponse of versions; StatusError if none was ever seen."""
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self.manager.statuses(name, number):
            entry = response.model_version_status.add(version=version.version)
            entry.state = entry.State.Value(version.state)
            code, message = "OK", ""
            if version.error:
                code, message = version.error.code, version.error.message
            entry.status.error_code = error_codes_pb2.Code.Value(code)
            entry.status.error_message = message
        return response

"""The cost of the embedded server, compared with calling the same model in process.

    python -m benchmarks.serving [--json FILE]

The ways are measured in turns, so that other load on the machine affects all of them. The models
have random weights, which does not change their times.
"""

import argparse
import io
import json
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.report import Bound, report
from data.console import quiet

_MODEL = "ssd"
_CLIENTS = 8
_PAIRS = 60  # of single calls
_ROUNDS = 8  # of calls by all clients
_ADDED_MS = 5.0
_THROUGHPUT = 0.8
_WAYS = _IN_PROCESS, _REST, _BUSY = ("in process", "REST", "in process, called as by the server")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


class Measurement(NamedTuple):
    """Figures for each way of calling a model, and a bound on one of them."""

    name: str
    ways: dict[str, dict[str, float]]
    bound: Bound


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument(
        "--seconds", type=float, default=3, help="per way and round, with 8 clients"
    )
    options = parser.parse_args()
    quiet()
    measurements = [_added_latency(), _throughput(options.seconds)]
    rows = [
        {"what": measurement.name, "way": way, **figures}
        for measurement in measurements
        for way, figures in measurement.ways.items()
    ]
    return report("serving", rows, [row.bound for row in measurements], options.json)


def _added_latency() -> Measurement:
    """SSD300 and one client, alternating calls in process and over REST."""
    with _Both("ssd300-voc", 20, picture(375, 500)) as both:
        ways = (both.in_process, both.client().ask)
        for way in ways:
            _timed(way)
        laps = [[], []]
        cpu = [0.0, 0.0]
        for _ in range(_PAIRS):
            for number, way in enumerate(ways):
                before = both.cpu_seconds()[number]
                laps[number].append(_timed(way))
                cpu[number] += both.cpu_seconds()[number] - before
    figures = [
        _figures(times, sum(times), seconds) for times, seconds in zip(laps, cpu, strict=True)
    ]
    added = figures[1]["p50 ms"] - figures[0]["p50 ms"]
    bound = Bound("SSD300, 1 client: ms added at the median", added, most=_ADDED_MS)
    return Measurement("SSD300, 1 client", dict(zip(_WAYS, figures, strict=False)), bound)


def _throughput(seconds: float) -> Measurement:
    """The sample model and 8 clients, compared with 8 threads in process, in turns.

    The threads call the model in TensorFlow's default way, which the bound refers to, and as the
    server does when all cores are busy, to show what that is worth.
    """
    with _Both("sample", 6, picture(240, 280)) as both:
        clients = [both.client() for _ in range(_CLIENTS)]
        actions = {
            _IN_PROCESS: [both.in_process] * _CLIENTS,
            _REST: [client.ask for client in clients],
            _BUSY: [both.in_process_busy] * _CLIENTS,
        }
        laps, spans, cpu = {way: [] for way in _WAYS}, Counter(), Counter()
        ratios = []
        for way in _WAYS:
            _all_at_once(actions[way], seconds)
        for number in range(_ROUNDS):
            rates = {}
            # Alternating order, so that each way goes first as often as last.
            for way in _WAYS if number % 2 else reversed(_WAYS):
                before = both.cpu_seconds()[way == _REST]
                times, span = _all_at_once(actions[way], seconds)
                cpu[way] += both.cpu_seconds()[way == _REST] - before
                laps[way] += times
                spans[way] += span
                rates[way] = len(times) / span
            ratios.append(rates[_REST] / rates[_IN_PROCESS])
    name = f"sample model, {_CLIENTS} clients"
    ratio = statistics.median(ratios)
    return Measurement(
        name,
        {way: _figures(laps[way], spans[way], cpu[way]) for way in _WAYS},
        Bound(f"{name}: throughput by in-process", ratio, least=_THROUGHPUT),
    )


class _Both:
    """The same model in this process and behind a server in another."""

    def __init__(self, preset: str, num_classes: int, image: bytes):
        self._preset, self._num_classes, self._image = preset, num_classes, image

    def __enter__(self):
        from benchmarks.serving_models import export_untrained
        from benchmarks.serving_process import start_server
        from serving.model_server.servable import Servable

        self._folder = tempfile.TemporaryDirectory()
        base = Path(self._folder.name, _MODEL)
        export_untrained(self._preset, self._num_classes, base / "1", self._image)
        self._inputs = {"image_bytes": np.array([self._image], object)}
        self._servable = Servable(base / "1")
        self.server = start_server(
            Path(self._folder.name, "log.txt"),
            f"--model_name={_MODEL}",
            f"--model_base_path={base}",
        )
        return self

    def __exit__(self, *_):
        self.server.stop()
        self._servable.close()
        self._folder.cleanup()

    def in_process(self) -> None:
        self._servable.run("", self._inputs)

    def in_process_busy(self) -> None:
        self._servable.run("", self._inputs, busy=True)

    def client(self) -> "_Client":
        encoded = b64encode(self._image).decode()
        body = json.dumps({"instances": [{"b64": encoded}]}).encode()
        return _Client(self.server.port, f"/v1/models/{_MODEL}:predict", body)

    def cpu_seconds(self) -> tuple[float, float]:
        """CPU time of this process and of the server's so far."""
        return time.process_time(), self.server.cpu_seconds()


class _Client:
    """An open connection that repeats one request at almost no cost.

    It shares the cores with the server, so the overhead of http.client would count against it.
    """

    def __init__(self, port: int, path: str, body: bytes):
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        """Sends the request and reads the whole answer, which must have status 200."""
        self._socket.sendall(self._request)
        body = self._receive()
        while b"\r\n\r\n" not in body:
            body += self._receive()
        head, _, body = body.partition(b"\r\n\r\n")
        size = int(_LENGTH.search(head + b"\r\n")[1])
        missing = size - len(body)
        while missing > 0:
            missing -= len(self._receive())
        if not head.startswith(b"HTTP/1.1 200 ") or missing < 0:
            raise SystemExit(f"error: the server answers {head.decode()} {body[:200]}")

    def _receive(self) -> bytes:
        received = self._socket.recv(65536)
        if not received:
            raise SystemExit("error: the server closed the connection")
        return received


def _all_at_once(actions: list[Callable[[], None]], seconds: float) -> tuple[list[float], float]:
    """Repeats each action on its own thread; returns the times of all calls and the total time."""
    times = []
    start = time.perf_counter()

    def repeat(action):
        while time.perf_counter() < start + seconds:
            times.append(_timed(action))

    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, time.perf_counter() - start


def _timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _figures(times: list[float], span: float, cpu: float) -> dict[str, float]:
    p50, p99 = (np.percentile(times, [50, 99]) * 1000).tolist()
    return {
        "calls": len(times),
        "p50 ms": p50,
        "p99 ms": p99,
        "requests/s": len(times) / span,
        "CPU ms per request": cpu / len(times) * 1000,
    }


def picture(height: int, width: int, seed: int = 0) -> bytes:
    """A JPEG of soft patches, which compresses about as well as a photograph."""
    from PIL import Image

    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (height // 8, width // 8, 3), np.uint8))
    stream = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())

"""What the embedded server costs, beside the same model called in the same process.

    python -m benchmarks.serving [--json FILE]

The two ways are measured in turns, so that what else the machine does weighs on both. The models
have random weights: their answers say nothing, their times do.
"""

import argparse
import http.client
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from base64 import b64encode
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


class Measurement(NamedTuple):
    """One way of asking beside the other, and what they are held to."""

    name: str
    in_process: dict[str, float]
    rest: dict[str, float]
    bound: Bound


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--seconds", type=float, default=3, help="a way and round, 8 clients")
    options = parser.parse_args()
    quiet()
    measurements = [_added_latency(), _throughput(options.seconds)]
    rows = [
        {"what": row.name, "way": way, **figures}
        for row in measurements
        for way, figures in (("in process", row.in_process), ("REST", row.rest))
    ]
    return report("serving", rows, [row.bound for row in measurements], options.json)


def _added_latency() -> Measurement:
    """SSD300 and one client: a call in process and one over REST, again and again."""
    with _Both("ssd300-voc", 20, picture(375, 500)) as both:
        ways = (both.in_process, both.ask(both.connect()))
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
    return Measurement("SSD300, 1 client", *figures, bound)


def _throughput(seconds: float) -> Measurement:
    """The sample model and 8 clients, against as many threads in process, in turns."""
    with _Both("sample", 6, picture(240, 280)) as both:
        ways = (
            [both.in_process] * _CLIENTS,
            [both.ask(both.connect()) for _ in range(_CLIENTS)],
        )
        laps, spans, cpu, ratios = [[], []], [0.0, 0.0], [0.0, 0.0], []
        _all_at_once(ways[0], seconds)
        _all_at_once(ways[1], seconds)
        for number in range(_ROUNDS):
            rates = [0.0, 0.0]
            # Each goes first as often as the other.
            for which in (0, 1) if number % 2 else (1, 0):
                before = both.cpu_seconds()[which]
                times, span = _all_at_once(ways[which], seconds)
                cpu[which] += both.cpu_seconds()[which] - before
                laps[which] += times
                spans[which] += span
                rates[which] = len(times) / span
            ratios.append(rates[1] / rates[0])
    figures = [_figures(*values) for values in zip(laps, spans, cpu, strict=True)]
    name = f"sample model, {_CLIENTS} clients"
    ratio = statistics.median(ratios)
    return Measurement(
        name, *figures, Bound(f"{name}: throughput by in-process", ratio, least=_THROUGHPUT)
    )


class _Both:
    """A model twice: in this process, and behind a server in another."""

    def __init__(self, preset: str, num_classes: int, image: bytes):
        self._preset, self._num_classes, self._image = preset, num_classes, image

    def __enter__(self):
        from benchmarks.serving_models import export_untrained
        from benchmarks.serving_process import start_server
        from serving.servable import Servable

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

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.server.port)

    def ask(self, connection: http.client.HTTPConnection) -> Callable[[], None]:
        """A function that sends the picture over an open connection and reads the answer."""
        encoded = b64encode(self._image).decode()
        body = json.dumps({"instances": [{"b64": encoded}]}).encode()

        def ask():
            connection.request("POST", f"/v1/models/{_MODEL}:predict", body)
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise SystemExit(f"error: the server answers {response.status}: {answer[:200]}")

        return ask

    def cpu_seconds(self) -> tuple[float, float]:
        """What this process and the server's have used so far."""
        return time.process_time(), self.server.cpu_seconds()


def _all_at_once(actions: list[Callable[[], None]], seconds: float) -> tuple[list[float], float]:
    """Each action on a thread of its own, over and over: the times of all calls, and the whole."""
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
        "CPU ms a request": cpu / len(times) * 1000,
    }


def picture(height: int, width: int, seed: int = 0) -> bytes:
    """A JPEG of soft patches, which packs about as well as a photograph."""
    from PIL import Image

    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (height // 8, width // 8, 3), np.uint8))
    stream = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())

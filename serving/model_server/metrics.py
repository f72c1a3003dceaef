"""The server's metrics, with TensorFlow Serving's names, in Prometheus' text format."""

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field

# TensorFlow Serving's: microseconds, from 10, each 1.8 times the last.
_BUCKETS = [10 * 1.8**i for i in range(33)]
_LIMITS = [*(f"{limit:g}" for limit in _BUCKETS), "+Inf"]
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

_Labels = tuple[tuple[str, str], ...]


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * len(_LIMITS))  # in each bucket
    total_us: float = 0.0


class Metrics:
    """Counters and histograms by name and labels; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: defaultdict[str, Counter[_Labels]] = defaultdict(Counter)
        self._histograms: defaultdict[str, defaultdict[_Labels, _Histogram]] = defaultdict(
            lambda: defaultdict(_Histogram)
        )

    def request(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Counts a request: api such as `predict`, entrypoint REST or GRPC, status such as `OK`."""
        self._count("serving:request_count", 1, model_name=model, status=status)
        labels = {"model_name": model, "API": api, "entrypoint": entrypoint}
        self._observe("serving:request_latency", seconds, **labels)

    def run(self, model: str, seconds: float) -> None:
        """Counts a run of the model itself."""
        labels = {"model_name": model, "API": "Predict", "runtime": "TF1"}
        self._observe("serving:runtime_latency", seconds, **labels)

    def load(self, path: str, succeeded: bool, seconds: float) -> None:
        """Counts an attempt to load a version folder."""
        status = "success" if succeeded else "fail"
        self._count("cc:saved_model:load_attempt_count", 1, model_path=path, status=status)
        self._count("cc:saved_model:load_latency", round(seconds * 1e6), model_path=path)

    def page(self) -> str:
        """All metrics, as Prometheus scrapes them."""
        lines = []
        with self._lock:
            for name, counters in sorted(self._counters.items()):
                lines.append(f"# TYPE {name} counter")
                lines += [f"{name}{{{_text(key)}}} {value}" for key, value in counters.items()]
            for name, histograms in sorted(self._histograms.items()):
                lines.append(f"# TYPE {name} histogram")
                for key, histogram in histograms.items():
                    labels, cumulative = _text(key), 0
                    for limit, count in zip(_LIMITS, histogram.counts, strict=True):
                        cumulative += count
                        lines.append(f'{name}_bucket{{{labels},le="{limit}"}} {cumulative}')
                    lines.append(f"{name}_sum{{{labels}}} {histogram.total_us:.6g}")
                    lines.append(f"{name}_count{{{labels}}} {cumulative}")
        return "\n".join(lines) + "\n"

    def _count(self, name: str, amount: int, **labels: str) -> None:
        with self._lock:
            self._counters[f":tensorflow:{name}"][tuple(labels.items())] += amount

    def _observe(self, name: str, seconds: float, **labels: str) -> None:
        with self._lock:
            histogram = self._histograms[f":tensorflow:{name}"][tuple(labels.items())]
            histogram.counts[bisect_left(_BUCKETS, seconds * 1e6)] += 1
            histogram.total_us += seconds * 1e6


def _text(labels: _Labels) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels)

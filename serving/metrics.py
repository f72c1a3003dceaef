"""The server's metrics under TensorFlow Serving's names, in Prometheus' text format."""

import threading
from bisect import bisect_left
from collections import defaultdict

_REQUEST_COUNT = ":tensorflow:serving:request_count"
_REQUEST_LATENCY = ":tensorflow:serving:request_latency"
_RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"
_LOAD_COUNT = ":tensorflow:cc:saved_model:load_attempt_count"
_LOAD_LATENCY = ":tensorflow:cc:saved_model:load_latency"

# Microseconds, from 10 in steps of 1.8, as TensorFlow Serving has them.
_BUCKETS = [10 * 1.8**i for i in range(33)]
_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms that several threads add to."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counters: dict[str, dict[_Labels, int]] = defaultdict(lambda: defaultdict(int))
        self._histograms: dict[str, dict[_Labels, list[float]]] = defaultdict(
            lambda: defaultdict(lambda: [0.0] * (len(_BUCKETS) + 2))
        )

    def request(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Counts a request: api as `predict`, entrypoint REST or GRPC, status as `OK`."""
        self._count(_REQUEST_COUNT, 1, model_name=model, status=status)
        self._observe(_REQUEST_LATENCY, seconds, model_name=model, API=api, entrypoint=entrypoint)

    def run(self, model: str, seconds: float) -> None:
        """Counts a run of the model itself."""
        self._observe(_RUNTIME_LATENCY, seconds, model_name=model, API="Predict", runtime="TF1")

    def load(self, path: str, succeeded: bool, seconds: float) -> None:
        """Counts an attempt to load a version's folder."""
        status = "success" if succeeded else "fail"
        self._count(_LOAD_COUNT, 1, model_path=path, status=status)
        self._count(_LOAD_LATENCY, round(seconds * 1e6), model_path=path)

    def page(self) -> str:
        """All metrics as Prometheus scrapes them."""
        lines = []
        with self._lock:
            for name, counters in sorted(self._counters.items()):
                lines.append(f"# TYPE {name} counter")
                lines += [f"{name}{_text(labels)} {value}" for labels, value in counters.items()]
            for name, histograms in sorted(self._histograms.items()):
                lines.append(f"# TYPE {name} histogram")
                for labels, (*counts, total) in histograms.items():
                    cumulative = 0
                    for limit, count in zip([*_BUCKETS, "+Inf"], counts, strict=True):
                        cumulative += int(count)
                        le = limit if limit == "+Inf" else f"{limit:g}"
                        lines.append(f"{name}_bucket{_text((*labels, ('le', le)))} {cumulative}")
                    lines.append(f"{name}_sum{_text(labels)} {total:.6g}")
                    lines.append(f"{name}_count{_text(labels)} {cumulative}")
        return "\n".join(lines) + "\n"

    def _count(self, name: str, amount: int, **labels: str) -> None:
        with self._lock:
            self._counters[name][tuple(labels.items())] += amount

    def _observe(self, name: str, seconds: float, **labels: str) -> None:
        microseconds = seconds * 1e6
        with self._lock:
            histogram = self._histograms[name][tuple(labels.items())]
            histogram[bisect_left(_BUCKETS, microseconds)] += 1
            histogram[-1] += microseconds


def _text(labels: _Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}"

"""Keeps the embedded server under load for minutes while versions come and go.

    python -m benchmarks.serving_soak --minutes 10 [--json FILE]

Eight clients send requests without a pause, 1 % of them malformed; a version is pushed every 5 s.
Each answer must equal that of a version which may have given it, run in this process.
"""

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.serving import picture
from benchmarks.serving_process import ServerProcess, start_server
from data.console import quiet

_MODEL = "ssd"
_CLIENTS = 8
_MODELS = 5  # with different weights, pushed in turns
_PUSH_S = 5.0
_KEEP = 6
_MALFORMED = 0.01
# Memory is judged after the first fifth, when threads and pools have reached their size.
_SETTLED = 0.2
_MAX_GROWTH_MB_PER_MINUTE = 2.0


class Soak:
    """Pushes, requests, and what was observed."""

    def __init__(self, base: Path, server: ServerProcess, answers: list[dict], images: list[bytes]):
        self.base, self.server = base, server
        self.answers = answers  # per model, per picture
        self.instances = [{"b64": b64encode(image).decode()} for image in images]
        self.counts: Counter = Counter()
        self.served: set[int] = set()
        self.memory: list[tuple[float, float]] = []
        self.times: list[float] = []
        self.end = 0.0
        # Pushes are counted from 0; number i pushes model i % _MODELS.
        self.begun = 1
        self._oldest = 0
        self._numbers: dict[int, int] = {}

    def push(self, models: list[Path]) -> None:
        """Pushes a version every few seconds, and deletes old ones."""
        from components.atomic_push.push import push
        from serving.versions import keep

        while time.monotonic() < self.end - _PUSH_S:
            time.sleep(_PUSH_S)
            index = self.begun
            self.begun += 1
            self._numbers[push(str(models[index % _MODELS]), str(self.base))] = index
            keep(self.base, _KEEP, ())

    def watch(self) -> None:
        """Records the server's memory, and the oldest version that may still answer."""
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        while time.monotonic() < self.end:
            self.memory.append((time.monotonic() - start, self.server.memory_mb()))
            connection.request("GET", f"/v1/models/{_MODEL}")
            versions = json.loads(connection.getresponse().read())["model_version_status"]
            newest = max(int(v["version"]) for v in versions if v["state"] == "AVAILABLE")
            self._oldest = max(self._oldest, self._numbers.get(newest, 0))
            time.sleep(0.5)

    def ask(self, seed: int) -> None:
        """One client's requests."""
        chance = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        while time.monotonic() < self.end:
            which = chance.randrange(len(self.instances))
            bad = chance.random() < _MALFORMED
            body = json.dumps({"instances": [self.instances[which]]})
            if bad:
                body = chance.choice(
                    [body[: len(body) // 2], body.replace("b64", "b65"), "[" * 5000]
                    + [body.replace("/", "-"), '{"instances": ["no picture"]}', ""]
                )
            oldest = self._oldest
            start = time.monotonic()
            try:
                connection.request("POST", f"/v1/models/{_MODEL}:predict", body)
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                print(f"lost: {error!r}", flush=True)
                self.counts["lost"] += 1
                connection.close()
                continue
            self.times.append(time.monotonic() - start)
            if bad:
                kind = "refused" if response.status == 400 and "error" in answer else "wrong"
            else:
                kind = self._judge(response.status, answer, which, range(oldest, self.begun))
            if kind == "wrong":
                print(f"wrong: {response.status} {body[:80]} {str(answer)[:200]}", flush=True)
            self.counts[kind] += 1

    def _judge(self, status: int, answer: dict, which: int, versions: range) -> str:
        if status != 200:
            return "wrong"
        (found,) = answer["predictions"]
        for index in reversed(versions):
            if _same(found, self.answers[index % _MODELS][which]):
                self.served.add(index)
                return "right"
        return "wrong"

    def growth_mb_per_minute(self) -> float:
        """Slope of a line through the memory over time."""
        minutes, megabytes = np.array(self.memory[int(len(self.memory) * _SETTLED) :]).T
        return float(np.polyfit(minutes / 60, megabytes, 1)[0])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving_soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    quiet()
    with tempfile.TemporaryDirectory() as name:
        result = _run(Path(name), options.minutes * 60)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    holds = (
        not result["wrong"]
        and not result["lost"]
        and result["exit_status"] == 0
        and result["growth_mb_per_minute"] < _MAX_GROWTH_MB_PER_MINUTE
    )
    return 0 if holds else 1


def _run(folder: Path, seconds: float) -> dict:
    from benchmarks.serving_models import export_untrained
    from components.atomic_push.push import push
    from serving.model_server.servable import Servable

    images = [picture(240, 280, seed) for seed in range(4)]
    models, answers = [], []
    for seed in range(_MODELS):
        models.append(folder / f"model{seed}")
        export_untrained("sample", 6, models[-1], images[0], seed)
        servable = Servable(models[-1])
        answers.append(
            [servable.run("", {"image_bytes": np.array([image], object)}) for image in images]
        )
        servable.close()
    base = folder / _MODEL
    push(str(models[0]), str(base))
    server = start_server(folder / "log.txt", f"--model_name={_MODEL}", f"--model_base_path={base}")
    soak = Soak(base, server, answers, images)
    start = time.monotonic()
    soak.end = start + seconds
    threads = [threading.Thread(target=soak.ask, args=(seed,)) for seed in range(_CLIENTS)]
    threads += [threading.Thread(target=soak.watch)]
    threads += [threading.Thread(target=soak.push, args=(models,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    span = time.monotonic() - start
    cpu_s = server.cpu_seconds()
    p50, p99 = np.percentile(soak.times, [50, 99]) * 1000
    failed_loads = server.log.read_text().count("does not load")
    return {
        "minutes": span / 60,
        **{kind: soak.counts[kind] for kind in ("right", "refused", "wrong", "lost")},
        "versions_pushed": soak.begun - 1,
        "versions_answering": len(soak.served),
        "failed_loads": failed_loads,
        "per_s": sum(soak.counts.values()) / span,
        "p50_ms": p50,
        "p99_ms": p99,
        "cpu_ms_per_request": cpu_s / sum(soak.counts.values()) * 1000,
        "memory_mb": [round(megabytes) for _, megabytes in soak.memory[:: len(soak.memory) // 8]],
        "growth_mb_per_minute": soak.growth_mb_per_minute(),
        "exit_status": server.stop(),
    }


def _same(found: dict, expected: dict[str, np.ndarray]) -> bool:
    """Whether a row of a JSON answer equals the model's own outputs (batch of one)."""
    if found["num_detections"] != expected["num_detections"][0]:
        return False
    return all(
        np.allclose(found[name], expected[name][0], atol=1e-5)
        for name in ("detection_boxes", "detection_scores", "detection_classes")
    )


if __name__ == "__main__":
    sys.exit(main())

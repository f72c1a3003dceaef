"""The cost of Beam jobs in this process, in worker processes, on Flink and on Spark.

    python -m benchmarks.engines

Converts drawn pictures and runs the sample pipeline on them, with few training steps, once for each
place where Beam can run. For conversion, StatisticsGen, Transform and Evaluator it reports seconds,
Python workers started, CPU seconds of each worker (equal ones share the work), and the peak memory
of the command, its workers and the engine's Java together. Flink and Spark are embedded in their
job servers (`make flink` and `make spark` get the jars).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import report
from data.beam_runner import DIRECT, MULTIPROCESS
from data.console import quiet
from data.sample import SPLIT_LISTS, draw_sample
from data.schema import SAMPLE_SCHEMA, class_names, read_schema
from engines import local

_PLACES = (DIRECT, MULTIPROCESS, *local.ENGINES)
_WORK = ("conversion", "StatisticsGen", "Transform", "Evaluator")
_SETTINGS = ("trainer.steps=8", "trainer.batch_size=4", "trainer.warmup_steps=2")
_DONE = re.compile(r"^(\w+) done in ([\d.]+) s")
_WORKER = "apache_beam.runners.worker.sdk_worker"
_SECONDS_BETWEEN_LOOKS = 0.2


class Process(NamedTuple):
    """A process, from /proc."""

    pid: int
    parent: int
    command: str
    memory_mb: float
    cpu_seconds: float


class Watch:
    """Polls this process's descendants and records their CPU time and memory."""

    def __init__(self) -> None:
        self._cpu_seconds: dict[int, float] = {}  # of each worker so far
        self._taken: dict[int, float] = {}  # the same at the last `take`
        self._peak_mb = 0.0
        self._stop = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Polls until the block ends."""
        thread = threading.Thread(target=self._poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def take(self) -> dict[str, object]:
        """What happened since the last call."""
        now, before = dict(self._cpu_seconds), self._taken
        spent = sorted(round(seconds - before.get(pid, 0), 1) for pid, seconds in now.items())
        row = {
            "workers started": len(now.keys() - before.keys()),
            "CPU s of workers": " ".join(f"{seconds:g}" for seconds in spent if seconds),
            "peak MB": self._peak_mb,
        }
        self._taken, self._peak_mb = now, 0.0
        return row

    def _poll(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
            family = _descendants(os.getpid())
            # Those of a pool are forks of a process with their command line.
            pids = {process.pid for process in family if _WORKER in process.command}
            workers = {
                process.pid: process.cpu_seconds
                for process in family
                if f"{_WORKER}_main" in process.command or process.parent in pids
            }
            self._cpu_seconds = {**self._cpu_seconds, **workers}
            self._peak_mb = max(self._peak_mb, sum(process.memory_mb for process in family))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--pictures", type=int, default=1200, help="(default: %(default)s)")
    parser.add_argument("--places", nargs="+", choices=_PLACES, default=_PLACES)
    parser.add_argument(
        "--workers", type=int, default=1, help="Python workers of an engine (default: %(default)s)"
    )
    options = parser.parse_args()
    quiet()
    for engine in set(options.places) & set(local.ENGINES):
        local.fetch(engine)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        voc = folder / "voc"
        draw_sample(voc, images=options.pictures)
        measured = [
            _measure(place, voc, folder / place, options.workers) for place in options.places
        ]
    # Ordered by work, for comparing places.
    rows = [row for rows in zip(*measured, strict=True) for row in rows]
    return report(f"Beam, {options.pictures:,} drawn pictures", rows, [], options.json)


def _measure(place: str, voc: Path, folder: Path, workers: int) -> list[dict]:
    """The rows of one place; `workers`: for an engine."""
    print(f"{place} ...", flush=True)
    folder.mkdir()
    engine = local.started(place, folder) if place in local.ENGINES else nullcontext()
    watch = Watch()
    lists = [f"--{split}={name}" for split, names in SPLIT_LISTS.items() for name in names]
    classes = class_names(read_schema(SAMPLE_SCHEMA))
    settings = [word for value in _SETTINGS for word in ("--set", value)]
    records, output = folder / "records", folder / "output"
    rows = {}
    with engine, watch.watching():
        convert = ["-m", "data.convert", "--voc", voc, "--output", records, *lists, "--classes"]
        started = time.perf_counter()
        beam = ["--beam", place]
        if place in local.ENGINES:
            beam += ["--", f"--sdk_worker_parallelism={workers}"]
        list(_lines([*convert, *classes, *beam]))
        rows["conversion"] = {"seconds": time.perf_counter() - started, **watch.take()}
        run = ["local_runner.py", "--data", records, "--output", output, *settings]
        for line in _lines([*run, *beam]):
            if found := _DONE.match(line):
                rows[found[1]] = {"seconds": float(found[2]), **watch.take()}
    return [{"what": work, "where": place, **rows[work]} for work in _WORK]


def _lines(arguments: list) -> Iterator[str]:
    """Runs one of this project's commands; yields its output line by line."""
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)
    yield from process.stdout
    if process.wait():
        raise SystemExit(f"error: {' '.join(command)} failed with status {process.returncode}")


def _descendants(pid: int) -> list[Process]:
    """All processes started by a process, directly or indirectly."""
    processes = [found for path in Path("/proc").glob("[0-9]*") if (found := _read(path))]
    family, parents = [], {pid}
    while parents:
        children = [process for process in processes if process.parent in parents]
        family += children
        parents = {process.pid for process in children}
    return family


def _read(path: Path) -> Process | None:
    try:
        fields = (path / "stat").read_text().rpartition(")")[2].split()
        command = (path / "cmdline").read_bytes().decode(errors="replace")
        # Pages that processes share count once.
        memory = re.search(r"^Pss: +(\d+) kB", (path / "smaps_rollup").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    memory_mb = int(memory[1]) / 1e3 if memory else 0.0
    cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Process(int(path.name), int(fields[1]), command, memory_mb, cpu_seconds)


if __name__ == "__main__":
    sys.exit(main())

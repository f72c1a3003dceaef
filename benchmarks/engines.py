"""What Beam's work costs in this process, in worker processes, on Flink and on Spark.

    python -m benchmarks.engines

Converts drawn pictures and runs the sample pipeline on them, with few training steps, once for each
place where Beam can work. Of conversion, StatisticsGen, Transform and Evaluator: seconds, Python
workers started, and the peak of the memory that the command, its workers and the engine's Java hold
together. Flink and Spark are embedded in their job servers (`make flink` and `make spark` get the
jars); their workers are counted from the pool.
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
_WORKER = re.compile(r"SdkHarness|sdk_worker_main")
_SECONDS_BETWEEN_LOOKS = 0.2


class Process(NamedTuple):
    """A process as /proc tells of it."""

    pid: int
    parent: int
    is_worker: bool
    memory_mb: float


class Watch:
    """Looks at this process's descendants again and again, and keeps what it sees of them."""

    def __init__(self) -> None:
        self._workers: set[int] = set()
        self._told: set[int] = set()
        self._peak_mb = 0.0
        self._stop = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks until the block ends."""
        thread = threading.Thread(target=self._look_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def take(self) -> tuple[int, float]:
        """Workers seen for the first time, and peak memory in MB, both since the last call."""
        started, peak = len(self._workers - self._told), self._peak_mb
        self._told, self._peak_mb = set(self._workers), 0.0
        return started, peak

    def _look_on(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
            family = _descendants(os.getpid())
            self._workers |= {process.pid for process in family if process.is_worker}
            self._peak_mb = max(self._peak_mb, sum(process.memory_mb for process in family))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--pictures", type=int, default=1200, help="(default: %(default)s)")
    parser.add_argument("--places", nargs="+", choices=_PLACES, default=_PLACES)
    options = parser.parse_args()
    quiet()
    for engine in set(options.places) & set(local.ENGINES):
        local.fetch(engine)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        voc = folder / "voc"
        draw_sample(voc, images=options.pictures)
        measured = [_measure(place, voc, folder / place) for place in options.places]
    # By work, so that the places stand below each other.
    rows = [row for rows in zip(*measured, strict=True) for row in rows]
    return report(f"Beam, {options.pictures:,} drawn pictures", rows, [], options.json)


def _measure(place: str, voc: Path, folder: Path) -> list[dict]:
    """The rows of one place."""
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
        list(_lines([*convert, *classes, "--beam", place]))
        rows["conversion"] = (time.perf_counter() - started, *watch.take())
        run = ["local_runner.py", "--data", records, "--output", output, *settings]
        for line in _lines([*run, "--beam", place]):
            if found := _DONE.match(line):
                rows[found[1]] = (float(found[2]), *watch.take())
    names = ("seconds", "workers started", "peak MB")
    return [
        {"what": work, "where": place, **dict(zip(names, rows[work], strict=True))}
        for work in _WORK
    ]


def _lines(arguments: list) -> Iterator[str]:
    """What a command of this project prints, line by line."""
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)
    yield from process.stdout
    if process.wait():
        raise SystemExit(f"error: {' '.join(command)} failed with status {process.returncode}")


def _descendants(pid: int) -> list[Process]:
    """All processes that a process has started, and those that these have started."""
    processes = [found for path in Path("/proc").glob("[0-9]*") if (found := _read(path))]
    family, parents = [], {pid}
    while parents:
        children = [process for process in processes if process.parent in parents]
        family += children
        parents = {process.pid for process in children}
    return family


def _read(path: Path) -> Process | None:
    try:
        parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        command = (path / "cmdline").read_bytes().decode(errors="replace")
        pages = int((path / "statm").read_text().split()[1])
    except (OSError, ValueError):
        return None
    memory_mb = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Process(int(path.name), parent, bool(_WORKER.search(command)), memory_mb)


if __name__ == "__main__":
    sys.exit(main())

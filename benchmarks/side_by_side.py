"""Measuring several things in turns, each in a process of its own, and reporting them.

Whatever else the machine does slows the things of a round alike, so their ratios hold on a machine
that is not idle, those of CPU seconds most of all; a process for each shows its peak memory. The
process that starts them stays
small, for Linux hands its own peak memory on to its children.
"""

import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data.console import quiet


@dataclass(frozen=True)
class Task:
    """`prepare(*arguments)` makes the action that is measured; `cores` limits its process.

    An action with a method `run_up` has that called before each round, unmeasured.
    """

    prepare: Callable[..., Callable[[], object]]
    arguments: Sequence = ()
    cores: int | None = None


@dataclass
class Measured:
    """Of an action: seconds and CPU seconds of each round, and the peak memory in MiB."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    @property
    def median(self) -> float:
        """The median of the rounds' seconds."""
        return statistics.median(self.seconds)

    @property
    def cpu_median(self) -> float:
        """The median of the rounds' CPU seconds."""
        return statistics.median(self.cpu_seconds)


def measure(tasks: Mapping[str, Task], rounds: int) -> dict[str, Measured]:
    """Runs every action once unmeasured, and then all of them in turns."""
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    for name, task in tasks.items():
        connections[name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(theirs, task), daemon=True))
        processes[-1].start()
        theirs.close()
        # One at a time: together they would need the memory of all their preparations at once.
        connections[name].recv()
    measured = {name: Measured() for name in tasks}
    for _ in range(rounds):
        for name, connection in connections.items():
            connection.send(True)
            seconds, cpu_seconds = connection.recv()
            measured[name].seconds.append(seconds)
            measured[name].cpu_seconds.append(cpu_seconds)
    for name, connection in connections.items():
        connection.send(False)
        measured[name].peak_mib = connection.recv()
    for process in processes:
        process.join()
    return measured


def ratio(one: Measured, other: Measured) -> float:
    """The median over the rounds of the quotient of seconds."""
    return _median_quotient(one.seconds, other.seconds)


def cpu_ratio(one: Measured, other: Measured) -> float:
    """The median over the rounds of the quotient of CPU seconds."""
    return _median_quotient(one.cpu_seconds, other.cpu_seconds)


def _median_quotient(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def _serve(connection, task: Task) -> None:
    if task.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.cores])
    quiet()
    action = task.prepare(*task.arguments)
    run_up = getattr(action, "run_up", lambda: None)
    run_up()
    action()
    connection.send(None)
    while connection.recv():
        run_up()
        started, cpu_started = time.perf_counter(), time.process_time()
        action()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        connection.send((seconds, cpu_seconds))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


@dataclass(frozen=True)
class Bound:
    """A number that must be at least `least` or at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the number is where it must be."""
        if self.least is not None and self.value < self.least:
            return False
        return self.most is None or self.value <= self.most

    def __str__(self) -> str:
        wanted = f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"
        return f"{self.name}: {self.value:.3g} ({wanted})"


def report(
    title: str, rows: Sequence[Mapping[str, object]], bounds: Sequence[Bound], path: Path | None
) -> int:
    """Prints a table and JSON, writes the JSON if a path is given; 1 if a bound does not hold."""
    table = Table(title=f"{title}, {os.cpu_count()} CPU cores")
    for header in rows[0]:
        table.add_column(header, justify="left" if header == "what" else "right")
    for row in rows:
        cells = (f"{v:,.3g}" if isinstance(v, float) and v < 100 else v for v in row.values())
        table.add_row(*(f"{v:,.0f}" if isinstance(v, float) else str(v) for v in cells))
    Console(width=120).print(table)
    for bound in bounds:
        print(bound)
    document = {
        "measurements": rows,
        "bounds": [{**vars(bound), "holds": bound.holds} for bound in bounds],
    }
    text = json.dumps(document, indent=1)
    print(text)
    if path:
        path.write_text(text + "\n", encoding="utf-8")
    missed = [str(bound) for bound in bounds if not bound.holds]
    if missed:
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0

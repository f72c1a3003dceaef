"""Measures several actions in turns, each in its own process.

Other load slows all actions of a round alike, so their ratios, above all those of CPU seconds, are
valid even if the machine is not idle. Separate processes show the peak memory of each. The parent
process must stay small, because children inherit its peak memory on Linux.
"""

import multiprocessing
import os
import resource
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from data.console import quiet


@dataclass(frozen=True)
class Task:
    """`prepare(*arguments)` makes the action to measure; `cores` limits its process.

    If an action has a method `warm_up`, it is called before each round, unmeasured.
    """

    prepare: Callable[..., Callable[[], object]]
    arguments: Sequence = ()
    cores: int | None = None


@dataclass
class Measured:
    """An action's seconds and CPU seconds in each round, and its peak memory in MiB."""

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
    """Runs every action once unmeasured, then all of them in turns.

    Between their turns, processes are stopped, so that they neither work ahead nor compete for
    caches and memory.
    """
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, {}
    measured = {name: Measured() for name in tasks}

    def turn(name, again):
        os.kill(processes[name].pid, signal.SIGCONT)
        connections[name].send(again)
        return connections[name].recv()

    def stop(name):
        os.kill(processes[name].pid, signal.SIGSTOP)

    try:
        for name, task in tasks.items():
            connections[name], theirs = context.Pipe()
            processes[name] = context.Process(target=_serve, args=(theirs, task), daemon=True)
            processes[name].start()
            theirs.close()
            # One at a time, since preparing needs more memory than measuring.
            connections[name].recv()
            stop(name)
        for _ in range(rounds):
            for name in tasks:
                seconds, cpu_seconds = turn(name, again=True)
                stop(name)
                measured[name].seconds.append(seconds)
                measured[name].cpu_seconds.append(cpu_seconds)
        for name in tasks:
            measured[name].peak_mib = turn(name, again=False)
    finally:
        # A stopped process cannot end.
        for process in processes.values():
            if process.is_alive():
                os.kill(process.pid, signal.SIGCONT)
    for process in processes.values():
        process.join()
    return measured


def ratio(one: Measured, other: Measured) -> float:
    """The median over rounds of the ratio of seconds."""
    return _median_quotient(one.seconds, other.seconds)


def cpu_ratio(one: Measured, other: Measured) -> float:
    """The median over rounds of the ratio of CPU seconds."""
    return _median_quotient(one.cpu_seconds, other.cpu_seconds)


def _median_quotient(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def _serve(connection, task: Task) -> None:
    if task.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.cores])
    quiet()
    action = task.prepare(*task.arguments)
    warm_up = getattr(action, "warm_up", lambda: None)
    warm_up()
    action()
    connection.send(None)
    while connection.recv():
        warm_up()
        started, cpu_started = time.perf_counter(), time.process_time()
        action()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        connection.send((seconds, cpu_seconds))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

"""Shows the progress of a running Beam pipeline.

Beam reports counters only after a local pipeline has ended, and its workers may be other processes.
So each worker appends one byte per picture to its own file, and the watching process adds up the
sizes of these files.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LOOKS = 0.2


class Marks:
    """The worker's side: `add` once for each picture that a stage has finished."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._file = (folder / f"{stage}-{uuid.uuid4().hex}").open("ab", buffering=0)

    def add(self) -> None:
        """Counts one more picture."""
        self._file.write(b".")

    def close(self) -> None:
        """Closes the file; its size still counts."""
        self._file.close()


@contextmanager
def watch(folder: Path, totals: Mapping[str, int], console: Console) -> Iterator[None]:
    """Shows the progress of each stage: bars on a terminal, a line per quarter elsewhere.

    Args:
        folder: of the workers' `Marks`.
        totals: number of pictures by stage, in the order of the stages.
        console: where to show it.
    """
    with show_progress(totals, console) as update:
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(_SECONDS_BETWEEN_LOOKS):
                update(_done(folder, totals))

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            update(_done(folder, totals))


def show_progress(
    totals: Mapping[str, int], console: Console
) -> AbstractContextManager[Callable[[Mapping[str, int]], None]]:
    """A function to call with the number of pictures done in each stage.

    Shows bars with the time left on a terminal, a line per quarter elsewhere.
    """
    return (_bars if console.is_terminal else _lines)(totals, console)


def _done(folder: Path, stages: Mapping[str, int]) -> dict[str, int]:
    return {
        stage: sum(path.stat().st_size for path in folder.glob(f"{stage}-*")) for stage in stages
    }


@contextmanager
def _bars(
    totals: Mapping[str, int], console: Console
) -> Iterator[Callable[[Mapping[str, int]], None]]:
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pictures"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {stage: progress.add_task(stage, total=total) for stage, total in totals.items()}

        def update(done: Mapping[str, int]) -> None:
            for stage, count in done.items():
                progress.update(tasks[stage], completed=count)

        yield update


@contextmanager
def _lines(
    totals: Mapping[str, int], console: Console
) -> Iterator[Callable[[Mapping[str, int]], None]]:
    quarters = dict.fromkeys(totals, 0)

    def update(done: Mapping[str, int]) -> None:
        for stage, count in done.items():
            quarter = 4 * count // max(totals[stage], 1)
            if quarter > quarters[stage]:
                quarters[stage] = quarter
                console.print(f"{stage}: {count:,} of {totals[stage]:,} pictures")

    yield update

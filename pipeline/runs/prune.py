"""Frees disk space used by older runs: `ssd runs prune --keep N`."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from pipeline.runs.home import PIPELINE
from pipeline.runs.store import Artifact, Run

CHECKPOINTS, COPIES, RESULTS = KINDS = ("checkpoints", "copies of data and models", "results")
_DATA = ("ImportExampleGen/examples", "DropLeaks/kept")
_COPIES = (*_DATA, "Pusher/pushed_model")


@dataclass(frozen=True)
class Removal:
    """A folder that no run needs; `kind` is one of KINDS."""

    kind: str
    path: Path


def plan(runs: Sequence[Run], output: Path, keep: int) -> list[Removal]:
    """Folders that are not needed by pushed models, the latest blessed model or the last runs.

    A pushed or blessed model keeps its lineage, but not its checkpoints and the copy of its data.
    Pruning does not change what a later run finds.

    Args:
      runs: all runs of the output folder, oldest first.
      keep: how many of the last runs keep everything; active runs do too.
    """
    kept = [run for run in runs if run.running or run in runs[-keep:]]
    whole = {artifact.uri for run in kept for artifact in _artifacts(run)}
    models = {a.uri for run in _with_models(runs) for a in _artifacts(run)}
    removals = []
    for folder in sorted((output / PIPELINE).glob("*/*/*")):
        name = f"{folder.parent.parent.name}/{folder.parent.name}"
        if folder.parent.name.startswith(".") or str(folder) in whole:
            continue
        checkpoints = folder / "checkpoints"
        if checkpoints.is_dir():
            removals.append(Removal(CHECKPOINTS, checkpoints))
        if str(folder) not in models or name in _DATA:
            removals.append(Removal(COPIES if name in _COPIES else RESULTS, folder))
    bases = {Path(base) for run in kept if (base := _records(run))}
    # The folder of a span contains those of its versions.
    used = bases.union(*(base.parents for base in bases))
    removals += [
        Removal(COPIES, folder)
        for folder in sorted((output / "records").glob("[!.]*"))
        if folder not in used
    ]
    if all(_has_trained(run) for run in kept):
        unfinished = sorted((output / "unfinished").glob("*"))
        removals += [Removal(CHECKPOINTS, folder) for folder in unfinished]
    return sorted(removals, key=lambda removal: KINDS.index(removal.kind))


def sizes(removals: Iterable[Removal]) -> dict[str, int]:
    """Bytes freed, by kind; files with a hard link elsewhere count as 0."""
    files = [
        (removal.kind, file.lstat())
        for removal in removals
        for file in removal.path.rglob("*")
        if not file.is_dir()
    ]
    links = Counter((stat.st_dev, stat.st_ino) for _, stat in files)
    gained = dict.fromkeys(KINDS, 0)
    counted = set()
    for kind, stat in files:
        inode = (stat.st_dev, stat.st_ino)
        if links[inode] >= stat.st_nlink and inode not in counted:
            counted.add(inode)
            gained[kind] += stat.st_size
    return gained


def remove(removals: Iterable[Removal]) -> None:
    """Removes folders; DataError for one that cannot be removed."""
    for removal in removals:
        try:
            shutil.rmtree(removal.path)
        except FileNotFoundError:  # removed with its parent
            pass
        except OSError as error:
            raise DataError(
                f"{removal.path}: cannot be removed ({error.strerror}). Make it "
                "writable, then prune again"
            ) from error


def _with_models(runs: Sequence[Run]) -> Iterator[Run]:
    """The runs whose model is pushed and still served, or is the latest blessed one."""
    for run in runs:
        step = run.step("Pusher")
        pushed = step.output("pushed_model") if step else None
        place = pushed and pushed.properties.get("pushed_destination")
        if place and Path(place).is_dir():
            yield run
    yield from [run for run in runs if _is_blessed(run)][-1:]


def _is_blessed(run: Run) -> bool:
    step = run.step("Evaluator")
    blessing = step.output("blessing") if step else None
    return bool(blessing and blessing.properties.get("blessed"))


def _has_trained(run: Run) -> bool:
    step = run.step("Trainer")
    return step is not None and step.state in ("complete", "cached")


def _records(run: Run) -> str | None:
    step = run.step("ImportExampleGen")
    return step.parameters.get("input_base") if step else None


def _artifacts(run: Run) -> Iterator[Artifact]:
    for step in run.steps:
        for side in (step.inputs, step.outputs):
            for several in side.values():
                yield from several

"""Lets a longer training continue a finished one whose steps it would repeat.

The result is the same as from scratch, so this is not part of any cache key.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.errors import DataError
from trainer import checkpoints, selection
from trainer.config import BOOKKEEPING, ConfigInSteps
from trainer.files import BEST_FILE, SUMMARY
from trainer.schedule import LearningRate

_log = logging.getLogger("ssd.trainer")

# When a training stops, and its learning rate, which is compared step by step.
_SCHEDULE = {
    f"trainer.{name}"
    for name in (
        *("steps", "patience", "schedule", "learning_rate", "learning_rate_steps"),
        *("warmup_steps", "warmup_learning_rate"),
    )
}


def continue_finished(work_dir: Path, run_dir: Path, identity: dict) -> None:
    """Gives a new training the state of a finished one that it would repeat, and logs it.

    The two must be the same in all but their length, and in the learning rate of every step taken.
    Where the last finished training does not fit, the log says why.

    Args:
      work_dir: the new training's, which then resumes from it. An existing one is left alone.
      run_dir: its Trainer's `model_run`; those of finished trainings are its siblings.
      identity: JSON values that decide the result, all of which are in a SUMMARY too; the
        configuration is `trainer`.

    Raises:
      DataError: `work_dir` cannot be written.
    """
    if work_dir.exists():
        return
    finished = [
        (folder, other, _differences(other, identity)) for folder, other in _finished(run_dir)
    ]
    if any(not differences for *_, differences in finished):
        return  # The user asked to train it again.
    reasons = []
    for folder, other, differences in finished:
        if names := [name for name in differences if name not in _SCHEDULE]:
            checkpoint, reason = None, f"it differs in {', '.join(names)}"
        else:
            old, new = (ConfigInSteps(**facts["trainer"]) for facts in (other, identity))
            checkpoint, reason = _checkpoint_to_take(folder, old, new)
        if checkpoint:
            _take(checkpoint, folder, work_dir, with_best=bool(new.eval_every))
            _log.info(
                "  continues the finished training of %d steps in %s: same data, settings, code "
                "and learning rates so far",
                old.steps,
                folder,
            )
            return
        reasons.append(f"{folder} cannot be continued: {reason}")
    if reasons:
        _log.info("  new training; the finished one in %s", reasons[0])


def _finished(run_dir: Path) -> Iterator[tuple[Path, dict]]:
    """Sibling folders of `run_dir` with the contents of their SUMMARY, newest first."""
    files = [path for path in run_dir.parent.glob(f"*/{SUMMARY}") if path.parent != run_dir]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(summary, dict) and "trainer" in summary:
            yield path.parent, summary


def _differences(found: dict, wanted: dict) -> list[str]:
    """Names of the facts and settings that differ and can change the result."""
    wanted = json.loads(json.dumps(wanted))  # normalised as `found` was
    settings = found["trainer"]
    return [
        *(
            f"trainer.{name}"
            for name, value in wanted["trainer"].items()
            if name not in BOOKKEEPING and settings.get(name) != value
        ),
        *(name for name, value in wanted.items() if name != "trainer" and found.get(name) != value),
    ]


def _checkpoint_to_take(
    folder: Path, old: ConfigInSteps, new: ConfigInSteps
) -> tuple[Path | None, str]:
    """The newest checkpoint that both trainings would write, or why there is none."""
    if new.steps < old.steps:
        return None, f"it has more steps ({old.steps})"
    if new.patience and not 0 < old.patience <= new.patience:
        return None, f"trainer.patience={new.patience} might have stopped it before its end"
    common = _steps_in_common(old, new)
    kept = checkpoints.steps_on_disk(folder / "checkpoints")
    if not kept:
        return None, "its checkpoints are gone"
    checkpoint = next((path for step, path in kept if step <= common), None)
    if checkpoint is None:
        return None, (
            f"the learning rates are the same for only {common} steps, and its first checkpoint is "
            f"from step {kept[-1][0]}. To start from its weights, set trainer.warm_start"
        )
    if new.eval_every:
        best = selection.best_in(folder / "checkpoints")
        # Measurements are repeated from the checkpoint on, so a later best is found again.
        if best is None:
            return None, "its best weights are gone"
        if best.step > common or best.step % new.eval_every:
            return None, (
                f"its best weights are from step {best.step}, which this training does not measure"
            )
    return checkpoint, ""


def _steps_in_common(old: ConfigInSteps, new: ConfigInSteps) -> int:
    """How many steps at the start have the same learning rates."""
    steps = np.arange(old.steps)
    differ = np.asarray(LearningRate(old)(steps)) != np.asarray(LearningRate(new)(steps))
    return int(differ.argmax()) if differ.any() else old.steps


def _take(checkpoint: Path, folder: Path, work_dir: Path, with_best: bool) -> None:
    """Copies the state into `work_dir`, which appears only when it is complete."""
    partial = work_dir.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "checkpoints").mkdir(parents=True)
        shutil.copy2(checkpoint, partial / "checkpoints")
        if with_best:
            shutil.copy2(checkpoint.with_name(BEST_FILE), partial / "checkpoints")
        newest = checkpoints.steps_on_disk(checkpoint.parent)[0][1]
        # Otherwise the curves would go past the checkpoint.
        if checkpoint == newest and (folder / "logs").is_dir():
            shutil.copytree(folder / "logs", partial / "logs")
        partial.rename(work_dir)
    except OSError as error:
        raise DataError(
            f"{work_dir}: the state of {folder} cannot be copied there ({error}). Free disk space "
            "and rerun"
        ) from error

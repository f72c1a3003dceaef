"""The Trainer's `run_fn` for several hosts: starts a Job and waits for it."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from components.distributed_trainer import indexed_job, manifest
from data.errors import DataError
from trainer.worker import ARGUMENTS, write_arguments

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs


def run_fn(fn_args: "FnArgs") -> None:
    """Trains as `trainer.run.run_fn`, but in a Kubernetes Job (TFX's Trainer contract).

    `fn_args.custom_config["training_job"]` holds the fields of `pipeline.config.TrainingJob`. The
    workers' inputs are copied to `work_dir` unless they are already on one of their volumes, and
    the chief's outputs are fetched from there.

    Raises:
        DataError: the workers cannot see `work_dir`, or the Job cannot be started or has failed.
    """
    job = fn_args.custom_config["training_job"]
    mounts = [Path(entry.split(":", 1)[1]) for entry in job["volumes"]]
    work_dir = Path(fn_args.custom_config["work_dir"])
    if not _is_on(work_dir, mounts):
        raise DataError(
            f"{work_dir}: the workers of training_job cannot see this folder. Mount a volume there "
            "in the Trainer and the workers: --set training_job.volumes=CLAIM:/PATH and "
            "--set resources.Trainer.volumes=CLAIM:/PATH"
        )
    name = "ssd-" + hashlib.sha256(fn_args.model_run_dir.encode()).hexdigest()[:12]
    folder = work_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    arguments = SimpleNamespace(**{key: getattr(fn_args, key) for key in ARGUMENTS})
    for key in ("train_files", "eval_files"):
        patterns = [
            _shared(Path(p).parent, folder, mounts) / Path(p).name for p in getattr(fn_args, key)
        ]
        setattr(arguments, key, [str(pattern) for pattern in patterns])
    for key in ("transform_graph_path", "base_model"):
        if path := getattr(fn_args, key):
            setattr(arguments, key, str(_shared(Path(path), folder, mounts)))
    arguments.serving_model_dir = str(folder / "model")
    arguments.model_run_dir = str(folder / "run")
    write_arguments(folder / "arguments.json", arguments)
    command = ["python", "-m", "trainer.worker", "--config", str(folder / "arguments.json")]
    owner = indexed_job.own_pod(job["namespace"])
    made = manifest.indexed_job(name, job, command, owner)
    indexed_job.run(indexed_job.connect(), made)
    if not Path(arguments.serving_model_dir).is_dir():
        raise DataError(
            f"{folder}: the training succeeded but left no model there. Mount the same volume in "
            "the Trainer and the workers"
        )
    shutil.copytree(arguments.serving_model_dir, fn_args.serving_model_dir)
    shutil.copytree(arguments.model_run_dir, fn_args.model_run_dir, dirs_exist_ok=True)
    shutil.rmtree(folder)


def _is_on(path: Path, mounts: list[Path]) -> bool:
    return any(path.is_relative_to(mount) for mount in mounts)


def _shared(path: Path, folder: Path, mounts: list[Path]) -> Path:
    """The folder itself if the workers can see it, else a copy that they can see."""
    if _is_on(path, mounts):
        return path
    copy = folder / "inputs" / hashlib.sha256(str(path).encode()).hexdigest()[:12]
    if not copy.exists():
        partial = copy.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(path, partial)
        partial.rename(copy)
    return copy

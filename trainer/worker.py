"""One worker of a training on one or several hosts: `python -m trainer.worker --config FILE`.

FILE is JSON with the arguments of `trainer.run.run_fn` (`ARGUMENTS`), the same for all workers,
with paths that all of them can see. The environment's `TF_CONFIG` lists the workers and says which
one this is. In the pods of a Kubernetes Indexed Job it is built from `--workers`, `--service` and
the pod's completion index. Without either the process trains alone. The chief (worker 0) writes
checkpoints and the model.

Losing a worker takes the others down: they exit with status 138. Start all of them again to resume
from the last checkpoint.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from trainer.reporting import with_reporting

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

ARGUMENTS = (
    "train_files",
    "eval_files",
    "transform_graph_path",
    "serving_model_dir",
    "model_run_dir",
    "base_model",
    "hyperparameters",
    "custom_config",
)
# Not an exit status of Python or shells, nor 128 + the number of a deadly signal.
LOST_WORKER = 138
# Kubernetes sets this in the containers of an Indexed Job.
COMPLETION_INDEX = "JOB_COMPLETION_INDEX"
# Worker 0's. Each worker has its own port, so that two can share a host's network.
FIRST_PORT = 2222


def write_arguments(path: Path, fn_args: "FnArgs") -> None:
    """Writes the arguments of a TFX `run_fn` that a worker needs."""
    values = {name: getattr(fn_args, name) for name in ARGUMENTS}
    # A worker does not inherit the environment of the process that starts it.
    settings = with_reporting(fn_args.custom_config["trainer"])
    values["custom_config"] = {**fn_args.custom_config, "trainer": settings}
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_arguments(path: Path) -> SimpleNamespace:
    """Reads the arguments that `write_arguments` wrote.

    Raises:
        DataError: the file cannot be read, or holds other names.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"--config {path}: cannot be read ({error})") from error
    if not isinstance(values, dict) or set(values) != set(ARGUMENTS):
        raise DataError(f"--config {path}: must be a JSON object of {', '.join(ARGUMENTS)}")
    return SimpleNamespace(**values)


def tf_config(workers: int, service: str, index: str | None) -> dict:
    """`TF_CONFIG` for a pod of a Kubernetes Indexed Job.

    Kubernetes names the Job's pods JOB-0, JOB-1, ... and gives them DNS names under the headless
    Service that is their subdomain.

    Args:
      service: name of the Job and of its Service.
      index: the pod's completion index, None outside such a Job.

    Raises:
        DataError: `index` is not a worker's.
    """
    if index is None or not index.isdecimal() or int(index) >= workers:
        raise DataError(
            f"{COMPLETION_INDEX}: {index!r} is not one of the {workers} workers, 0 to "
            f"{workers - 1}. --workers and --service are for the pods of an Indexed Job; "
            "elsewhere, set TF_CONFIG"
        )
    hosts = [f"{service}-{i}.{service}:{FIRST_PORT + i}" for i in range(workers)]
    return {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": int(index)}}


@as_command
def main(arguments: Arguments = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(description="Trains, alone or as one of several workers.")
    parser.add_argument("--config", type=Path, required=True, help="JSON of run_fn's arguments")
    parser.add_argument("--workers", type=int, metavar="N", help="pods of a Kubernetes Indexed Job")
    parser.add_argument("--service", metavar="NAME", help="name of that Job and Service")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    options = parser.parse_args(arguments)
    if (options.workers is None) != (options.service is None):
        parser.error("--workers and --service belong together")
    quiet(options.verbose)
    fn_args = read_arguments(options.config)
    if options.workers:
        index = os.environ.get(COMPLETION_INDEX)
        os.environ["TF_CONFIG"] = json.dumps(tf_config(options.workers, options.service, index))
    import tensorflow as tf

    from trainer.run import run_fn

    try:
        run_fn(fn_args)
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        print(
            "error: another worker was lost. Start all workers again to resume from the last "
            f"checkpoint ({error.message.splitlines()[0]})",
            file=sys.stderr,
        )
        return LOST_WORKER
    return 0


if __name__ == "__main__":
    sys.exit(main())

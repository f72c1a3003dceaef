"""One process of a training on one or several hosts: `python -m trainer.worker --config FILE`.

FILE is JSON with the arguments of `trainer.run.run_fn` (`ARGUMENTS`), the same for all workers and
with paths that all of them see. `TF_CONFIG` in the environment, as the Kubeflow Training Operator
sets it, says who the workers are and which of them this one is; without it the process trains
alone. The chief writes checkpoints and the model.

Started again after it was lost, a worker goes on from the last checkpoint, once the others, which
then end with status 138, are started again too.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

from data.console import quiet
from data.errors import DataError, exit_status
from trainer.reporting import with_reporting

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
# The Training Operator starts processes again that end with 128 or more; 138 is left to programs.
LOST_WORKER = 138


def write_arguments(path: Path, fn_args) -> None:
    """Writes what a worker needs of the arguments that TFX hands to a `run_fn`."""
    values = {name: getattr(fn_args, name) for name in ARGUMENTS}
    # A worker does not have the environment of the process that starts it.
    settings = with_reporting(fn_args.custom_config["trainer"])
    values["custom_config"] = {**fn_args.custom_config, "trainer": settings}
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_arguments(path: Path) -> SimpleNamespace:
    """The arguments that `write_arguments` wrote.

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


def main(arguments=None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Trains, alone or as one of TF_CONFIG's workers.")
    parser.add_argument("--config", type=Path, required=True, help="JSON of run_fn's arguments")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    options = parser.parse_args(arguments)
    quiet(options.verbose)
    try:
        fn_args = read_arguments(options.config)
        import tensorflow as tf

        from trainer.run import run_fn

        try:
            run_fn(fn_args)
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            print(
                "error: another worker was lost. Started again, training goes on from the last "
                f"checkpoint ({error.message.splitlines()[0]})",
                file=sys.stderr,
            )
            return LOST_WORKER
    except Exception as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())

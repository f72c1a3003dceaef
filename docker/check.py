"""Checks that an installed environment works, in a temporary folder: `python docker/check.py`.

Imports every module, then runs drawn pictures through conversion, a few training steps, evaluation,
push, and a prediction by the pushed model. The image's stage `check` and the tests run this; it
needs nothing from the checkout.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = ("components", "data", "metrics", "pipeline", "serving", "trainer")
# What containers run: command lines, TFX's entry point, Beam's pool of workers.
ENTRY_POINTS = (
    "kubeflow_runner",
    "local_runner",
    "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor",
    "apache_beam.runners.worker.worker_pool_main",
)
# The second Keras backend is for development and not in the image.
NOT_INSTALLED = {"jax"}
IMAGES = 22
QUICK = (
    "trainer.steps=2",
    "trainer.batch_size=4",
    "serving.check_pictures=1",
    "evaluator.min_map=0",
    "evaluator.confidence_intervals=false",
)


def main() -> int:
    """Runs the check; returns the exit status."""
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        take_pictures_all_the_way()
    return 0


def import_everything() -> None:
    """Imports every module of the project, so that a missing package or file shows here."""
    # Import nothing from the current folder or the one of this file.
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() not in _here()]
    start = time.monotonic()
    from data.console import quiet

    quiet()
    names = list(ENTRY_POINTS)
    for package in PACKAGES:
        found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
        names += [package, *(module.name for module in found)]
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in NOT_INSTALLED:
                raise
    root = Path(sys.modules["trainer"].__file__).parents[1]
    _say(f"imported {len(names)} modules from {root}", start)


def take_pictures_all_the_way() -> None:
    """From drawn pictures to detections, with the commands that a user would type."""
    from data.schema import SAMPLE_SCHEMA

    _run("data.sample", "--output", "voc", "--images", IMAGES)
    _run(
        "data.convert",
        *("--voc", "voc", "--output", "records", "--schema", SAMPLE_SCHEMA),
        *("--train", "VOC2007/train", "--eval", "VOC2007/val", "--test", "VOC2007/test"),
    )
    settings = [word for setting in QUICK for word in ("--set", setting)]
    _run("local_runner", "--data", "records", "--output", "run", *settings)
    models = Path("run/serving/ssd")
    if not list(models.glob("*/saved_model.pb")):
        sys.exit(f"error: nothing was pushed to {models}")
    picture = min(Path("voc/VOCdevkit/VOC2007/JPEGImages").iterdir())
    arguments = ("--model", models, "--format", "json", "--no-draw")
    answer = json.loads(_run("serving.predict", picture, *arguments))
    _say(f"the pushed model answers: {json.dumps(answer)[:60]} ...")


def _run(module: str, *arguments: object) -> str:
    """Runs `python -m MODULE ARGUMENT...`; returns its output, ends the check if it fails."""
    start = time.monotonic()
    command = [sys.executable, "-m", module, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)}\n{process.stdout}{process.stderr}")
    _say(f"python -m {module}", start)
    return process.stdout


def _here() -> set[Path]:
    return {Path.cwd().resolve(), Path(__file__).resolve().parent}


def _say(text: str, start: float | None = None) -> None:
    took = "" if start is None else f": {time.monotonic() - start:.0f} s"
    print(text + took, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Where Beam pipelines run: named presets of Beam options for the command lines.

A preset is a list of plain Beam options. What a user gives after `--` comes later, and wins.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError

DIRECT = "direct"
MULTIPROCESS = "multiprocess"

# Beam's own runner by name: its default would first look for a binary to download. And no
# container image: without this each TFX component packs TFX's source, which only a cluster needs.
IN_PROCESS = ("--runner=FnApiRunner", "--sdk_container_image=none")

_ROOT = Path(__file__).resolve().parents[1]

# A worker holds TensorFlow, TFX and, in an evaluation, a model.
_BYTES_PER_WORKER = 2 * 2**30

# A job server translates for its cluster, and workers from a pool beside each node do the work.
_JOB_SERVER = (
    "--runner=PortableRunner",
    "--environment_type=EXTERNAL",
    "--environment_config=localhost:50000",
    # One Python process for each slot: the cluster's number of slots bounds memory.
    "--sdk_worker_parallelism=1",
)
_REMOTE = {
    "flink": _JOB_SERVER,
    "spark": _JOB_SERVER,
    "dataflow": ("--runner=DataflowRunner",),
}
PRESETS = (DIRECT, MULTIPROCESS, *_REMOTE)

# What only the user can know, with an example of each.
_DEMANDED = {
    "flink": {"job_endpoint": "flink-job-server:8099"},
    "spark": {"job_endpoint": "spark-job-server:8099"},
    "dataflow": {
        "project": "my-project",
        "region": "europe-west1",
        "temp_location": "gs://my-bucket/tmp",
        "sdk_container_image": "an image with this project's environment",
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--beam PRESET` and the Beam options after `--`, which `arguments_of` reads."""
    parser.add_argument(
        "--beam",
        choices=PRESETS,
        default=DIRECT,
        help="where Beam works: in this process (default), in a process a CPU core, or on a "
        "cluster (docs/beam.md)",
    )
    parser.add_argument("beam_options", nargs="*", metavar="-- BEAM_OPTION", help=argparse.SUPPRESS)


def arguments_of(options: argparse.Namespace) -> list[str]:
    """The Beam options that a parsed command line asks for.

    Raises:
        DataError: see `beam_arguments`.
    """
    return beam_arguments(options.beam, options.beam_options)


def beam_arguments(preset: str, options: Sequence[str] = ()) -> list[str]:
    """The options of a preset, then the user's own.

    Args:
        preset: one of `PRESETS`.
        options: plain Beam options as `--name=value`.

    Raises:
        DataError: a word that is no option, or a lack of one that the preset cannot do without.
    """
    for word in options:
        if not word.startswith("--"):
            raise DataError(f"{word}: is no option. Beam options go after --, as --name=value")
    given = {word[2:].partition("=")[0] for word in options}
    missing = {k: v for k, v in _DEMANDED.get(preset, {}).items() if k not in given}
    if missing:
        examples = " ".join(f"--{name}={example!r}" for name, example in missing.items())
        raise DataError(
            f"--beam {preset} needs {', '.join(f'--{name}' for name in missing)}: end the command "
            f"with -- {examples}"
        )
    if preset == DIRECT:
        return [*IN_PROCESS, *options]
    if preset == MULTIPROCESS:
        return [*_multiprocess(), *options]
    return [*_REMOTE[preset], *_package(given), *options]


def number_of_workers() -> int:
    """One worker for each CPU core that this process may use, as far as memory reaches."""
    return max(1, min(len(os.sched_getaffinity(0)), _memory() // _BYTES_PER_WORKER))


def _multiprocess() -> list[str]:
    # Workers are started as `python -m`, from the folder of the moment: they find the project here.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_ROOT) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, paths)])
    return [
        *IN_PROCESS,
        "--direct_running_mode=multi_processing",
        f"--direct_num_workers={number_of_workers()}",
        "--beam_plugin=data.beam_worker",
    ]


def _package(given: set[str]) -> list[str]:
    """The option by which this project's code travels to the workers."""
    if "setup_file" in given:
        return []
    path = _ROOT / "setup.py"
    if not path.is_file():
        raise DataError(f"{path}: missing, so workers cannot get this code. Give --setup_file=PATH")
    return [f"--setup_file={path}"]


def _memory() -> int:
    """Bytes of memory of this machine, or of the container if that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return machine if text == "max" else min(machine, int(text))

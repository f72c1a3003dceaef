"""Where Beam pipelines run: named presets of Beam options for the command lines.

A preset is a list of plain Beam options. Options that users give after `--` override it.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.errors import DataError, did_you_mean

DIRECT = "direct"
MULTIPROCESS = "multiprocess"

# Beam's local runner by name, since the default first looks for a binary to download. And no
# container image: otherwise each TFX component packs TFX's source, which only a cluster needs.
IN_PROCESS = ("--runner=FnApiRunner", "--sdk_container_image=none")

_ROOT = Path(__file__).resolve().parents[1]

_WORKER_PROCESSES = (
    *IN_PROCESS,
    "--direct_running_mode=multi_processing",
    "--beam_plugin=data.beam_worker",
)

# A worker holds TensorFlow, TFX and, in an evaluation, a model.
_BYTES_PER_WORKER = 2 * 2**30

# Where `make flink` and `make spark` listen.
DEFAULT_JOB_PORT, DEFAULT_POOL_PORT = 8099, 50000

# Workers come from a pool on each node.
EXTERNAL = "EXTERNAL"

# A job server translates for its cluster, and workers from a pool on each node do the work.
_JOB_SERVER = (
    "--runner=data.job_server.JobServerRunner",
    f"--environment_type={EXTERNAL}",
    f"--environment_config=localhost:{DEFAULT_POOL_PORT}",
    f"--job_endpoint=localhost:{DEFAULT_JOB_PORT}",
    # One Python process per node works for all slots of the node.
    "--sdk_worker_parallelism=1",
    # Otherwise Beam runs `pip freeze`, and this environment has no pip.
    "--experiments=disable_logging_submission_environment",
)
_REMOTE = {
    # Keeps workers between stages: otherwise each stage starts new ones, which import TensorFlow.
    # Lost ones are kept too, so Flink's restart strategy must wait longer (engines/local.py).
    "flink": (*_JOB_SERVER, "--environment_cache_millis=10000"),
    "spark": (*_JOB_SERVER, "--environment_cache_millis=60000"),
    "dataflow": ("--runner=DataflowRunner",),
}
PRESETS = (DIRECT, MULTIPROCESS, *_REMOTE)

# Options that only the user can know, with an example of each.
_DEMANDED = {
    "dataflow": {
        "project": "my-project",
        "region": "europe-west1",
        "temp_location": "gs://my-bucket/tmp",
        "sdk_container_image": "an image with this project's environment",
    },
}
# In containers also these, since this machine's values do not apply there.
_DEMANDED_IN_IMAGE = {
    MULTIPROCESS: {"direct_num_workers": "4"},
    "flink": {"job_endpoint": "flink-job-server:8099"},
    "spark": {"job_endpoint": "spark-job-server:8099"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--beam PRESET` and the Beam options after `--`, which `arguments_of` reads."""
    parser.add_argument(
        "--beam",
        choices=PRESETS,
        default=DIRECT,
        help="where Beam runs: in this process (default), in a process per CPU core, or on a "
        "cluster (docs/beam.md)",
    )
    parser.add_argument("beam_options", nargs="*", metavar="-- BEAM_OPTION", help=argparse.SUPPRESS)


def arguments_of(options: argparse.Namespace, image: str | None = None) -> list[str]:
    """The Beam options that a parsed command line asks for; see `beam_arguments`."""
    return beam_arguments(options.beam, options.beam_options, image)


def beam_arguments(preset: str, options: Sequence[str] = (), image: str | None = None) -> list[str]:
    """The options of a preset, then the user's own.

    Args:
        preset: one of `PRESETS`.
        options: plain Beam options as `--name=value`.
        image: image of the containers that will start the Beam jobs and of their workers; None if
            this process starts them.

    Raises:
        DataError: a word is not a Beam option, the preset lacks a required option, or its workers
            cannot see this machine's folders.
    """
    if preset == "dataflow" and not image:
        raise DataError(
            "--beam dataflow: its workers cannot see this machine's folders. Compile the pipeline "
            "for Kubeflow or Vertex AI instead: ssd compile --beam dataflow ..."
        )
    for word in options:
        if not word.startswith("--"):
            raise DataError(f"{word}: not an option. Beam options go after --, as --name=value")
    given = {name: value for name, _, value in (word[2:].partition("=") for word in options)}
    demanded = _DEMANDED.get(preset, {}) | (_DEMANDED_IN_IMAGE.get(preset, {}) if image else {})
    missing = {name: example for name, example in demanded.items() if name not in given}
    if missing:
        examples = " ".join(f"--{name}={example!r}" for name, example in missing.items())
        raise DataError(
            f"--beam {preset} needs {', '.join(f'--{name}' for name in missing)}: end the command "
            f"with -- {examples}"
        )
    if preset not in _REMOTE and "runner" not in given:
        _check_known(options)
    if preset == DIRECT:
        return [*IN_PROCESS, *options]
    if preset == MULTIPROCESS:
        return [*_WORKER_PROCESSES, *([] if image else _workers_here()), *options]
    return [*_REMOTE[preset], *_code_of_workers(given, image), *options]


def on_other_machines(arguments: Sequence[str]) -> bool:
    """Whether Beam options send the work to workers that share no folder with this process."""
    runners = [word for word in arguments if word.startswith("--runner=")]
    return bool(runners) and runners[-1].partition("=")[2] not in ("FnApiRunner", "DirectRunner")


def number_of_workers() -> int:
    """One worker per CPU core that this process may use, as far as memory allows."""
    return max(1, min(len(os.sched_getaffinity(0)), _memory() // _BYTES_PER_WORKER))


def workers_in_words(preset: str, arguments: Sequence[str]) -> str:
    """Where a preset with the result of `beam_arguments` runs, such as `2 worker processes`."""
    if preset == DIRECT:
        return "in this process"
    if preset != MULTIPROCESS:
        return f"on {preset}"
    name = "--direct_num_workers="
    number = [word.removeprefix(name) for word in arguments if word.startswith(name)][-1]
    return f"{number} worker process{'' if number == '1' else 'es'}"


def _check_known(options: Sequence[str]) -> None:
    """Raises DataError for options unknown to Beam, which would ignore them silently.

    A job server's options are checked by the server.
    """
    if not options:
        return
    from apache_beam.options.pipeline_options import PipelineOptions

    parsed = PipelineOptions(list(options))
    known = parsed.get_all_options()
    unknown = [
        name for name in parsed.get_all_options(retain_unknown_options=True) if name not in known
    ]
    if unknown:
        hint = did_you_mean(f"--{unknown[0]}", [f"--{name}" for name in known])
        raise DataError(f"--{unknown[0]}: Beam has no such option; {hint}")


def python_path() -> str:
    """PYTHONPATH with which worker processes find the project from any folder."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*filter(None, paths), str(_ROOT)]))


def _workers_here() -> list[str]:
    os.environ["PYTHONPATH"] = python_path()
    return [f"--direct_num_workers={number_of_workers()}"]


def _code_of_workers(given: Mapping[str, str], image: str | None) -> list[str]:
    """The option that says where workers get this project's code.

    TFX would send its own source unless an image is named: `none` if workers are not containers
    started by the engine.
    """
    if given.keys() & {"setup_file", "sdk_container_image"}:
        return []
    if image:
        return [f"--sdk_container_image={image}"]
    if given.get("environment_type", EXTERNAL) == EXTERNAL:
        # A pool runs the code in its own image or checkout; data.worker_code compares it with ours.
        return ["--sdk_container_image=none"]
    path = _ROOT / "setup.py"
    if not path.is_file():
        raise DataError(f"{path}: missing, so workers cannot get this code. Give --setup_file=PATH")
    return [f"--setup_file={path}"]


def _memory() -> int:
    """Memory of this machine, or of the container if that is less, in bytes."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return machine if text == "max" else min(machine, int(text))

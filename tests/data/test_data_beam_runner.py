"""Presets as Beam parses them, and the environment of workers."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from data import beam_runner
from data.beam_runner import (
    DEFAULT_JOB_PORT,
    DEFAULT_POOL_PORT,
    PRESETS,
    add_arguments,
    arguments_of,
    beam_arguments,
    on_other_machines,
)
from data.errors import DataError

_ROOT = Path(__file__).resolve().parents[2]
_DATAFLOW = ("--project=p", "--region=r", "--temp_location=gs://b/t", "--sdk_container_image=i")
_NEEDED = {
    "flink": ("--job_endpoint=flink:8099",),
    "spark": ("--job_endpoint=spark:8099",),
    "dataflow": _DATAFLOW,
}


def _parse(*words, image=None):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return PipelineOptions(arguments_of(parser.parse_args(words), image))


@pytest.fixture
def machine(monkeypatch):
    """Pretends that this machine has the given cores and memory."""
    monkeypatch.setenv("PYTHONPATH", "")

    def pretend(cores, gigabytes):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(beam_runner, "_memory", lambda: int(gigabytes * 2**30))

    return pretend


@pytest.mark.parametrize("preset", PRESETS)
def test_beam_knows_every_option_and_user_options_win(preset):
    needed = _NEEDED.get(preset, ())
    image = "registry/ssd:1" if preset == "dataflow" else None
    words = beam_arguments(preset, [*needed, "--runner=OtherRunner"], image)
    options = PipelineOptions(words)
    known = options.get_all_options()
    assert all(word[2:].partition("=")[0] in {*known, "beam_plugin"} for word in words)
    assert options.view_as(StandardOptions).runner == "OtherRunner"


def test_the_default_stays_in_this_process():
    options = _parse()
    assert options.view_as(StandardOptions).runner == "FnApiRunner"
    assert options.view_as(DirectOptions).direct_running_mode == "in_memory"
    assert options.view_as(DirectOptions).direct_num_workers == 1


@pytest.mark.parametrize(
    ("cores", "gigabytes", "workers"), [(1, 64, 1), (16, 64, 16), (16, 9, 4), (4, 0.5, 1)]
)
def test_workers_fit_cores_and_memory(machine, cores, gigabytes, workers):
    machine(cores, gigabytes)
    options = _parse("--beam", "multiprocess")
    assert options.view_as(DirectOptions).direct_num_workers == workers
    assert options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    options = _parse("--beam", "multiprocess", "--", "--direct_num_workers=7")
    assert options.view_as(DirectOptions).direct_num_workers == 7


def test_worker_processes_see_no_gpu_and_use_one_core(tmp_path, machine):
    machine(2, 64)
    options = _parse("--beam", "multiprocess")
    (plugin,) = options.view_as(SetupOptions).beam_plugins
    program = f"import {plugin}, json, os; print(json.dumps(dict(os.environ)))"
    # As Beam does: by module name, from any folder.
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    environment = json.loads(process.stdout)
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
    assert environment["TF_NUM_INTRAOP_THREADS"] == "1"
    # This process may train on a GPU.
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "-1"


@pytest.mark.parametrize("preset", ["flink", "spark"])
def test_engines_keep_workers_and_get_no_package(preset):
    """A pool runs its own code; a package would be built and sent but never installed."""
    options = _parse("--beam", preset)
    assert options.view_as(StandardOptions).runner == "data.job_server.JobServerRunner"
    portable = options.view_as(PortableOptions)
    assert portable.job_endpoint == f"localhost:{DEFAULT_JOB_PORT}"
    assert portable.environment_type == "EXTERNAL"
    assert portable.environment_config == f"localhost:{DEFAULT_POOL_PORT}"
    assert int(portable.environment_cache_millis) >= 10_000
    assert options.view_as(SetupOptions).setup_file is None
    # TFX sends its source unless an image is named.
    assert options.view_as(WorkerOptions).sdk_container_image == "none"
    options = _parse("--beam", preset, "--", "--job_endpoint=host:8099")
    assert options.view_as(PortableOptions).job_endpoint == "host:8099"


@pytest.mark.parametrize("preset", ["flink", "spark"])
def test_containers_started_by_the_engine_get_this_code(preset):
    docker = ("--environment_type=DOCKER", "--environment_config=image")
    options = _parse("--beam", preset, "--", *docker)
    assert options.view_as(SetupOptions).setup_file == str(_ROOT / "setup.py")
    options = _parse("--beam", preset, "--", *docker, "--setup_file=mine.py")
    assert options.view_as(SetupOptions).setup_file == "mine.py"


@pytest.mark.parametrize("preset", ["flink", "spark", "dataflow"])
def test_on_a_cluster_the_code_is_in_the_image(preset):
    """setup.py is only on the machine that compiles, and no worker needs it."""
    options = _parse("--beam", preset, "--", *_NEEDED[preset], image="registry/ssd:1")
    assert options.view_as(SetupOptions).setup_file is None
    image = "i" if preset == "dataflow" else "registry/ssd:1"
    assert options.view_as(WorkerOptions).sdk_container_image == image


def test_on_a_cluster_the_number_of_processes_is_required(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(DataError, match="--beam multiprocess needs --direct_num_workers"):
        beam_arguments("multiprocess", image="registry/ssd:1")
    options = _parse("--beam", "multiprocess", "--", "--direct_num_workers=7", image="i")
    assert options.view_as(DirectOptions).direct_num_workers == 7
    assert options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    assert "PYTHONPATH" not in os.environ


@pytest.mark.parametrize("preset", PRESETS)
def test_which_workers_are_on_other_machines(preset):
    words = beam_arguments(preset, _NEEDED.get(preset, ("--direct_num_workers=2",)), "image")
    assert on_other_machines(words) == (preset in _NEEDED)
    assert not on_other_machines([*words, "--runner=FnApiRunner"])
    assert not on_other_machines([])


@pytest.mark.parametrize(
    ("preset", "words", "message"),
    [
        ("flink", (), "--beam flink needs --job_endpoint: end the command with --"),
        ("spark", ("--parallelism=2",), "--beam spark needs --job_endpoint"),
        ("dataflow", _DATAFLOW[:1], "needs --region, --temp_location, --sdk_container_image"),
        ("direct", ("word",), "word: not an option"),
        (
            "direct",
            ("--direct_num_wokers=2",),
            "--direct_num_wokers: Beam has no such option; did you mean --direct_num_workers",
        ),
        ("dataflow", (*_DATAFLOW[:3], "--sdk_container_image", "i"), "i: not an option"),
    ],
)
def test_invalid_and_missing_beam_options(preset, words, message):
    with pytest.raises(DataError, match=message):
        beam_arguments(preset, words, image="registry/ssd:1")


def test_a_missing_setup_py_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(beam_runner, "_ROOT", tmp_path)
    with pytest.raises(DataError, match="setup.py: missing.*--setup_file=PATH"):
        beam_arguments("flink", ["--environment_type=DOCKER"])

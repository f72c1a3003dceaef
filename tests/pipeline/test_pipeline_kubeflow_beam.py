"""The compiled pipeline: where Beam runs."""

from pathlib import Path

import pytest
import yaml

import kubeflow_runner
from pipeline.kubeflow import entrypoint

_VOLUMES = "resources.all.volumes=ssd-models:/models"
_IMAGE = "registry/ssd:1"


def _compile_beam(folder, *words):
    """Class and Beam options of every executor in a pipeline compiled with `--beam WORDS`."""
    where = ("--pipeline-root", "gs://b/root", "--data", "gs://b/records", "--set", _VOLUMES)
    command = ["compile", "--image", _IMAGE, *where, "-o", str(folder / "ssd.yaml")]
    assert kubeflow_runner.main([*command, *(("--beam", *words) if words else ())]) == 0
    spec, _ = yaml.safe_load_all((folder / "ssd.yaml").read_text())
    found = {}
    for name, executor in spec["deploymentSpec"]["executors"].items():
        if "container" in executor:
            words = executor["container"]["args"]
            parsed, beam_args = entrypoint._parser().parse_known_args(words)
            found[name.removesuffix("_executor")] = (
                parsed.executor_class_path,
                beam_args,
            )
    return found


def test_beam_runs_in_the_containers_by_default(tmp_path):
    found = _compile_beam(tmp_path)
    assert "Transform" in found
    for executor, args in found.values():
        assert args == ["--runner=FnApiRunner", "--sdk_container_image=none"]
        assert not entrypoint.works_elsewhere(executor, args)


@pytest.mark.parametrize(
    ("preset", "options", "expected"),
    [
        ("multiprocess", ["--direct_num_workers=4"], "--direct_running_mode=multi_processing"),
        ("flink", ["--job_endpoint=flink:8099"], f"--sdk_container_image={_IMAGE}"),
        (
            "dataflow",
            [
                *("--project=p", "--region=r", "--temp_location=gs://b/t"),
                "--sdk_container_image=registry/ssd:1-beam",
            ],
            "--runner=DataflowRunner",
        ),
    ],
)
def test_beam_runs_where_it_is_told_to(tmp_path, preset, options, expected):
    compiled = _compile_beam(tmp_path, preset, "--", *options)
    for _, args in compiled.values():
        assert expected in args
        assert args[-len(options) :] == options
        # No path of the compiling machine.
        assert str(Path(kubeflow_runner.__file__).parent) not in " ".join(args)
    elsewhere = {name for name, found in compiled.items() if entrypoint.works_elsewhere(*found)}
    by_beam = {"ImportExampleGen", "StatisticsGen", "DataGate", "Transform", "Evaluator"}
    assert elsewhere == (set() if preset == "multiprocess" else by_beam)

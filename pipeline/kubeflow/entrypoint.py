"""The entry point of a component's container: TFX's, with its input and output translated.

It translates URIs of object stores to local paths and back, and a run's parameters into TFX's. It
removes missing baselines, and artifacts of type `system.*`, which TFX does not know. If Beam's
workers run elsewhere, URIs stay as they are, since the paths mean nothing there.
"""

import argparse
import json
import sys
import tempfile
import urllib.parse
from pathlib import Path

import yaml

from data.beam_runner import on_other_machines
from data.command_line import Arguments, Parser, as_command
from data.console import quiet

# The compiler passes it to the component that has to find the newest span.
RESOLVE_SPAN = "--resolve_span"

# Marks an empty artifact, since a component cannot omit an output.
NO_BASELINE = "no_baseline.txt"

# Prefix of a parameter that holds a file's content in place of its name.
DATA_URL = "data:,"

# Artifact types that TFX cannot find by title.
ARTIFACT_TYPES = {
    "ssd.DataGateReport": "components.artifacts.DataGateReport",
    "ssd.DetectionReportFile": "components.artifacts.DetectionReportFile",
    "ssd.ModelCardFolder": "components.artifacts.ModelCardFolder",
}


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs an executor with the arguments in the compiled pipeline."""
    options, beam_args = _parser().parse_known_args(arguments)
    quiet(options.verbose)
    _run(options, beam_args)


def _run(options: argparse.Namespace, beam_args: list[str]) -> None:
    from tfx.orchestration.kubeflow.v2 import compiler_utils
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    from pipeline.kubeflow.uris import map_strings, to_uri

    compiler_utils.TITLE_TO_CLASS_PATH.update(ARTIFACT_TYPES)
    as_paths = not works_elsewhere(options.executor_class_path, beam_args)
    executor_input = translate_input(json.loads(options.json_serialized_invocation_args), as_paths)
    output_file = Path(executor_input["outputs"]["outputFile"])

    if options.resolve_span:
        from tfx.orchestration.kubeflow.v2.file_based_example_gen import driver

        options.json_serialized_invocation_args = json.dumps(executor_input)
        driver.main(options)
        _keep_metadata(executor_input, json.loads(output_file.read_text(encoding="utf-8")))
    options.json_serialized_invocation_args = json.dumps(executor_input)
    kubeflow_v2_run_executor.main((options, beam_args))
    found = json.loads(output_file.read_text(encoding="utf-8"))
    if not as_paths:
        _remove_folder_markers(found)
    output_file.write_text(json.dumps(map_strings(found, to_uri)), encoding="utf-8")


def _remove_folder_markers(found: dict) -> None:
    """Removes the empty objects `FOLDER/` that TensorFlow writes for new folders.

    Kubeflow's launcher fails to download an artifact that has them
    (github.com/kubeflow/pipelines/issues/13476, open as of KFP 2.17.0).
    """
    from apache_beam.io.gcp.gcsio import GcsIO

    storage = GcsIO()
    for artifacts in found.get("artifacts", {}).values():
        for artifact in artifacts["artifacts"]:
            # Listed in full first, so that deletions cannot disturb the listing.
            for name, size in list(storage.list_files(artifact["uri"].rstrip("/") + "/")):
                if name.endswith("/") and not size:
                    storage.delete(name)


def works_elsewhere(executor_class_path: str, beam_args: list[str]) -> bool:
    """Whether Beam does an executor's work on machines that cannot see this container's files.

    TFX passes Beam's options to every container, even those that do not use Beam.
    """
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.utils import import_utils

    executor = import_utils.import_class_by_path(executor_class_path)
    return issubclass(executor, BaseBeamExecutor) and on_other_machines(beam_args)


def translate_input(executor_input: dict, as_paths: bool = True) -> dict:
    """Translates an ExecutorInput of Kubeflow Pipelines (as JSON) for TFX.

    as_paths: whether URIs of object stores become paths in this container.
    """
    from pipeline.kubeflow.parameters import write_parameters
    from pipeline.kubeflow.uris import map_strings, to_path

    if as_paths:
        executor_input = map_strings(executor_input, to_path)
    inputs = executor_input.setdefault("inputs", {})
    parameters = inputs.setdefault("parameterValues", {})
    artifacts = {}
    for key, found in inputs.get("artifacts", {}).items():
        (artifact,) = found["artifacts"]
        if _title(artifact).startswith("system."):
            # Imported data replaces the parameter of the same name.
            parameters[key] = artifact["uri"]
        elif not Path(to_path(artifact["uri"]), NO_BASELINE).exists():
            artifacts[key] = found
    inputs["artifacts"] = artifacts
    for key, value in parameters.items():
        if str(value).startswith(DATA_URL):
            parameters[key] = _unpacked(value)
    write_parameters(parameters)
    outputs = executor_input.setdefault("outputs", {})
    outputs["artifacts"] = {
        key: found
        for key, found in outputs.get("artifacts", {}).items()
        if not _title(found["artifacts"][0]).startswith("system.")
    }
    for side in (inputs, outputs):
        for found in side["artifacts"].values():
            (artifact,) = found["artifacts"]
            # TFX derives an artifact's id from its name, which some versions of Kubeflow omit.
            artifact["name"] = artifact.get("name") or artifact["uri"]
    return executor_input


def _unpacked(url: str) -> str:
    """Writes the content of a `data:` URL to a temporary file; returns its path."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(urllib.parse.unquote_to_bytes(url.removeprefix(DATA_URL)))
    return file.name


def _title(artifact: dict) -> str:
    """The title of an artifact's type, given directly or in a schema."""
    kind = artifact.get("type", {})
    if "instanceSchema" in kind:
        return yaml.safe_load(kind["instanceSchema"]).get("title", "")
    return kind.get("schemaTitle", "")


def _keep_metadata(executor_input: dict, found: dict) -> None:
    """Adds the metadata (span, fingerprint) found before the component ran to its outputs."""
    for key, artifacts in found.get("artifacts", {}).items():
        (artifact,) = executor_input["outputs"]["artifacts"][key]["artifacts"]
        more = artifacts["artifacts"][0].get("metadata", {})
        artifact["metadata"] = {**artifact.get("metadata", {}), **more}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description="Runs one component in its container.")
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args")
    parser.add_argument(RESOLVE_SPAN, action="store_true")
    parser.add_argument("--verbose", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())

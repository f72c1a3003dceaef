"""The outputs of one of several runs in an output folder."""

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.orchestration import metadata

from pipeline.runs.outputs import run_outputs
from tests.pipeline.recorder import Recorder


@pytest.fixture
def outputs(tmp_path):
    """Two simultaneous runs, the first of which finishes last, and one that failed."""
    recorder = Recorder(tmp_path)
    made = {
        name: recorder.artifact("Made", f"/{name}") for name in ("long", "first", "short", "other")
    }
    recorder.run("long")
    long = recorder.current
    recorder.run("short")
    for name in ("first", "short"):
        recorder.step("Evaluator", outputs={"evaluation": made[name]})
    recorder.current = long
    recorder.step("Evaluator", outputs={"evaluation": made["other"]}, pipeline="ssd-other")
    recorder.step("Evaluator", outputs={"evaluation": made["long"]}, state=mlmd.Execution.CACHED)
    recorder.run("failed")
    recorder.step("Evaluator", state=mlmd.Execution.FAILED)
    config = metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.sqlite"))

    def outputs(run, component="Evaluator"):
        with metadata.Metadata(config) as handle:
            found = run_outputs(handle, "ssd-tiny", run, component)
        return {key: [artifact.uri for artifact in several] for key, several in found.items()}

    return outputs


def test_a_run_gets_its_own_latest_results_and_no_others(outputs):
    assert outputs("short") == {"evaluation": ["/short"]}
    assert outputs("long") == {"evaluation": ["/long"]}


def test_missing_outputs_are_empty(outputs):
    assert outputs("failed") == outputs("long", "Pusher") == outputs("unknown") == {}

"""What `--from COMPONENT` runs, and what it needs from an earlier run."""

import shutil
from types import SimpleNamespace

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata

from data.errors import DataError
from pipeline import local
from tests.pipeline.recorder import Recorder

_UPSTREAM = {
    "ExampleGen": [],
    "blessed_data": ["ExampleGen"],
    "DataGate": ["ExampleGen", "blessed_data"],
    "Trainer": ["ExampleGen", "DataGate"],
    "blessed_model": ["Trainer"],
    "Evaluator": ["ExampleGen", "Trainer", "blessed_model"],
    "Pusher": ["Trainer", "Evaluator"],
}


class _Node:
    def __init__(self, name):
        self.id = name
        self.upstream_nodes, self.downstream_nodes = set(), set()


class _Lookup(_Node, Resolver):
    """A TFX resolver, connected by hand."""

    upstream_nodes = downstream_nodes = id = None


@pytest.fixture
def pipeline(tmp_path):
    nodes = {}
    for name, upstream in _UPSTREAM.items():
        nodes[name] = (_Lookup if name.startswith("blessed") else _Node)(name)
        for other in upstream:
            nodes[name].upstream_nodes.add(nodes[other])
            nodes[other].downstream_nodes.add(nodes[name])
    return SimpleNamespace(
        components=list(nodes.values()),
        pipeline_info=SimpleNamespace(pipeline_name="ssd"),
        metadata_connection_config=metadata.sqlite_metadata_connection_config(
            str(tmp_path / "metadata.sqlite")
        ),
    )


def _record(recorder, name, components, pipeline="ssd"):
    recorder.run(name)
    for component in components:
        folder = recorder.folder / name / component
        folder.mkdir(parents=True)
        made = recorder.artifact("Made", folder)
        state = mlmd.Execution.CACHED if component == "DataGate" else mlmd.Execution.COMPLETE
        recorder.step(component, outputs={"made": made}, pipeline=pipeline, state=state)


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path)


@pytest.fixture
def finished(recorder):
    """An earlier run that finished everything."""
    _record(recorder, "whole", _UPSTREAM)


@pytest.mark.parametrize(
    ("component", "first"),
    [
        ("ExampleGen", ["ExampleGen", "blessed_data", "blessed_model"]),
        ("DataGate", ["DataGate", "blessed_data", "blessed_model"]),
        ("Trainer", ["Trainer", "blessed_model"]),
        ("Evaluator", ["Evaluator", "blessed_model"]),
        ("Pusher", ["Pusher"]),
    ],
)
def test_a_partial_run_starts_there_and_looks_up_its_baselines_again(
    pipeline, finished, component, first
):
    assert local._partial_run(pipeline, component).from_nodes == first


def test_an_unknown_component_gets_a_suggestion(pipeline):
    with pytest.raises(DataError, match="--from Triner: unknown component; did you mean Trainer"):
        local._partial_run(pipeline, "Triner")


def test_a_partial_run_needs_an_earlier_run(pipeline):
    with pytest.raises(DataError, match="before it: ExampleGen, blessed_data, DataGate. Run"):
        local._partial_run(pipeline, "Trainer")
    assert local._partial_run(pipeline, "ExampleGen")


def test_it_continues_the_newest_run_that_finished_everything_before(pipeline, recorder, finished):
    _record(recorder, "other preset", _UPSTREAM, pipeline="ssd-other")
    _record(recorder, "until Trainer", list(_UPSTREAM)[:3])
    assert local._partial_run(pipeline, "Trainer").base_pipeline_run_id == "until Trainer"
    assert local._partial_run(pipeline, "Evaluator").base_pipeline_run_id == "whole"
    shutil.rmtree(recorder.folder / "whole" / "Trainer")
    with pytest.raises(DataError, match="--from Evaluator: no earlier run .* Trainer. Run without"):
        local._partial_run(pipeline, "Evaluator")

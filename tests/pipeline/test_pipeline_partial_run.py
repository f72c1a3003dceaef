"""What `--from COMPONENT` runs, and what it needs from the run before."""

from types import SimpleNamespace

import pytest
from tfx.orchestration import metadata

from data.errors import DataError
from pipeline import local
from pipeline.pipeline import BASELINE

_UPSTREAM = {
    "ExampleGen": [],
    "Trainer": ["ExampleGen"],
    BASELINE: ["Trainer"],
    "Evaluator": ["ExampleGen", "Trainer", BASELINE],
    "Pusher": ["Trainer", "Evaluator"],
}


@pytest.fixture
def pipeline(tmp_path):
    components = {}
    for name, upstream in _UPSTREAM.items():
        nodes = {components[other] for other in upstream}
        # Nodes of a pipeline are hashed by identity.
        components[name] = type("Node", (), {"id": name, "upstream_nodes": nodes})()
    return SimpleNamespace(
        components=list(components.values()),
        pipeline_info=SimpleNamespace(pipeline_name="ssd"),
        metadata_connection_config=metadata.sqlite_metadata_connection_config(
            str(tmp_path / "metadata.sqlite")
        ),
    )


@pytest.fixture
def finished(monkeypatch):
    """Names of the components that an earlier run has finished."""
    names = set(_UPSTREAM) - {BASELINE}
    monkeypatch.setattr(
        local, "latest_outputs", lambda handle, pipeline, name: {"x": []} if name in names else {}
    )
    return names


@pytest.mark.parametrize(
    ("component", "first"),
    [
        ("ExampleGen", ["ExampleGen"]),
        ("Trainer", ["Trainer"]),
        ("Evaluator", [BASELINE, "Evaluator"]),
        ("Pusher", ["Pusher"]),
    ],
)
def test_where_a_partial_run_begins(pipeline, finished, component, first):
    assert local._partial_run(pipeline, component).from_nodes == first


def test_an_unknown_component_is_named_with_those_there_are(pipeline):
    with pytest.raises(DataError, match="--from Triner: no such component; .*Trainer, latest_b"):
        local._partial_run(pipeline, "Triner")


def test_without_an_earlier_run_there_is_nothing_to_go_on_from(pipeline):
    with pytest.raises(DataError, match="has finished ExampleGen, Trainer, Evaluator. Run without"):
        local._partial_run(pipeline, "Pusher")
    with pytest.raises(DataError, match="has finished ExampleGen. Run without"):
        local._partial_run(pipeline, "Trainer")


def test_what_an_earlier_run_did_not_reach_is_named(pipeline, finished):
    finished.remove("Trainer")
    assert local._partial_run(pipeline, "Trainer")
    with pytest.raises(DataError, match="has finished Trainer. Run without --from"):
        local._partial_run(pipeline, "Evaluator")

"""What `--from COMPONENT` runs, and what it needs from the run before."""

from types import SimpleNamespace

import pytest
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata

from data.errors import DataError
from pipeline import local

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
    """As TFX's, but connected by hand."""

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


@pytest.fixture
def finished(monkeypatch):
    """Names of the components that an earlier run has finished."""
    names = set(_UPSTREAM)
    monkeypatch.setattr(
        local, "latest_success", lambda handle, pipeline, name: 7 if name in names else None
    )
    return names


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
def test_a_partial_run_begins_there_and_looks_its_baselines_up_anew(
    pipeline, finished, component, first
):
    assert local._partial_run(pipeline, component).from_nodes == first


def test_an_unknown_component_is_named_with_those_there_are(pipeline):
    with pytest.raises(DataError, match="--from Triner: unknown component; did you mean Trainer"):
        local._partial_run(pipeline, "Triner")


def test_without_an_earlier_run_there_is_nothing_to_go_on_from(pipeline):
    with pytest.raises(DataError, match="has finished ExampleGen, blessed_data, DataGate. Run"):
        local._partial_run(pipeline, "Trainer")
    assert local._partial_run(pipeline, "ExampleGen")


def test_what_an_earlier_run_did_not_reach_is_named(pipeline, finished):
    finished.remove("Trainer")
    assert local._partial_run(pipeline, "Trainer")
    with pytest.raises(DataError, match="has finished Trainer. Run without --from"):
        local._partial_run(pipeline, "Evaluator")

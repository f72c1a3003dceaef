"""Which earlier models and data a run is compared with or starts from, on a real metadata store."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.common.resolver import RESOLVER_CONFIG, RESOLVER_STRATEGY_CLASS
from tfx.types import standard_artifacts

from pipeline.baseline import (
    LatestBlessedBaseModel,
    LatestOtherBlessedData,
    LatestOtherBlessedModel,
)

_EVENT = metadata_store_pb2.Event


_JOB = ("training_job.workers=2", "training_job.image=i", "training_job.volumes=c:/v")


@pytest.mark.parametrize("job", [(), _JOB], ids=["here", "job"])
def test_the_pipeline_looks_its_baselines_up_by_these(build, job):
    found = {c.id: c.exec_properties for c in build("trainer.warm_start=latest", *job).components}
    for name, strategy in (
        ("latest_blessed_model", LatestOtherBlessedModel),
        ("latest_blessed_data", LatestOtherBlessedData),
        ("base_model", LatestBlessedBaseModel),
    ):
        assert found[name][RESOLVER_STRATEGY_CLASS] is strategy
    # Only so is a model recognised that the same training has made before.
    told = found["base_model"][RESOLVER_CONFIG]["custom_config"]
    assert json.loads(told) == json.loads(found["Trainer"]["custom_config"])


class History:
    """Runs of StatisticsGen and Trainer over data sets, as TFX records them."""

    def __init__(self, folder):
        self.folder = folder
        config = metadata_store_pb2.ConnectionConfig()
        config.fake_database.SetInParent()
        self.store = MetadataStore(config)
        self._graphs = {}
        self.artifacts = {"model": [], "model_blessing": [], "statistics": []}
        self._step = self.store.put_execution_type(metadata_store_pb2.ExecutionType(name="Step"))

    def artifact(self, kind, key=None):
        made = kind()
        made.uri = tempfile.mkdtemp(dir=self.folder)
        if kind is standard_artifacts.Model:
            Path(made.uri, "saved_model.pb").touch()
        made.type_id = self.store.put_artifact_type(made.artifact_type, can_add_fields=True)
        made.mlmd_artifact.type_id = made.type_id
        (made.id,) = self.store.put_artifacts([made.mlmd_artifact])
        if key:
            self.artifacts[key].append(made)
        return made

    def step(self, inputs, outputs, custom_config=""):
        step = metadata_store_pb2.Execution(type_id=self._step)
        step.custom_properties["custom_config"].string_value = custom_config
        events = [(item, _EVENT.INPUT) for item in inputs]
        events += [(item, _EVENT.OUTPUT) for item in outputs]
        self.store.put_execution(
            step,
            [(item.mlmd_artifact, _EVENT(type=kind, artifact_id=item.id)) for item, kind in events],
            [],
        )

    def data(self):
        """Examples and their statistics."""
        examples = self.artifact(standard_artifacts.Examples)
        statistics = self.artifact(standard_artifacts.ExampleStatistics, "statistics")
        self.step([examples], [statistics])
        return examples, statistics

    def train(self, examples, blessed=True, custom_config="", base_model=()):
        model = self.artifact(standard_artifacts.Model, "model")
        self.step([examples, self.graph(examples), *base_model], [model], custom_config)
        blessing = standard_artifacts.ModelBlessing()
        blessing.uri = str(self.folder)
        blessing.set_int_custom_property("current_model_id", model.id)
        blessing.set_int_custom_property("blessed", int(blessed))
        self.artifacts["model_blessing"].append(blessing)
        return model

    def graph(self, examples):
        """The transform graph of examples, made once."""
        if examples.id not in self._graphs:
            self._graphs[examples.id] = self.artifact(standard_artifacts.TransformGraph)
            self.step([examples], [self._graphs[examples.id]])
        return self._graphs[examples.id]

    def resolve(self, candidate):
        given = {**self.artifacts, "candidate": [candidate]}
        found = LatestOtherBlessedData().resolve_artifacts(self.store, given)
        assert found.keys() == given.keys()
        return [artifact.id for artifact in found["statistics"]]

    def base_model(self, examples, custom_config):
        given = {key: list(self.artifacts[key]) for key in ("model", "model_blessing")}
        given |= {"examples": [examples], "transform_graph": [self.graph(examples)]}
        strategy = LatestBlessedBaseModel(custom_config=custom_config)
        found = strategy.resolve_artifacts(self.store, given)
        return [artifact.id for artifact in found["model"]]


@pytest.fixture
def history(tmp_path):
    return History(tmp_path)


def _delete(artifact):
    shutil.rmtree(artifact.uri)


def test_no_baseline_data_on_the_first_run_and_its_repetition(history):
    examples, statistics = history.data()
    assert history.resolve(statistics) == []
    history.train(examples)
    assert history.resolve(statistics) == []


def test_new_data_is_compared_with_the_latest_blessed_models_data(history):
    for blessed in (True, True, False):
        examples, statistics = history.data()
        history.train(examples, blessed)
        if blessed:
            expected = statistics.id
    _, new = history.data()
    assert history.resolve(new) == [expected]


def test_a_repeated_run_finds_the_same_baseline_data(history):
    examples, old = history.data()
    history.train(examples)
    examples, new = history.data()
    assert history.resolve(new) == [old.id]
    history.train(examples)
    assert history.resolve(new) == [old.id]


def test_data_is_traced_through_leak_removal_but_not_through_the_base_model(history):
    examples, old = history.data()
    kept = history.artifact(standard_artifacts.Examples)
    history.step([examples], [kept])
    first = history.train(kept)
    examples, new = history.data()
    assert history.resolve(new) == [old.id]
    history.train(examples, base_model=[first])
    _, newest = history.data()
    assert history.resolve(newest) == [new.id]


def test_a_training_starts_from_the_latest_blessed_model(history):
    examples, _ = history.data()
    assert history.base_model(examples, '{"a": 1}') == []
    blessed = history.train(examples, custom_config='{"a": 0}')
    history.train(examples, blessed=False, custom_config='{"a": 0}')
    assert history.base_model(examples, '{"a": 1}') == [blessed.id]


def test_other_examples_or_another_graph_are_another_training(history):
    examples, _ = history.data()
    blessed = history.train(examples, custom_config="{}")
    assert history.base_model(examples, "{}") == []
    others, _ = history.data()
    assert history.base_model(others, "{}") == [blessed.id]
    history._graphs[examples.id] = history.artifact(standard_artifacts.TransformGraph)
    assert history.base_model(examples, "{}") == [blessed.id]


def test_a_repeated_training_starts_from_the_same_model_as_before(history):
    examples, _ = history.data()
    first = history.train(examples, custom_config='{"a": 0, "b": [1]}')
    # The order of the settings does not matter.
    assert history.base_model(examples, '{"b": [1], "a": 0}') == []
    second = history.train(examples, custom_config='{"a": 1}', base_model=[first])
    assert history.base_model(examples, '{"a": 1}') == [first.id]
    others, _ = history.data()
    assert history.base_model(others, '{"a": 1}') == [second.id]


def test_a_model_is_compared_with_the_latest_blessed_one_but_itself(history):
    examples, _ = history.data()
    first, second = history.train(examples), history.train(examples)
    history.train(examples, blessed=False)
    given = {key: list(history.artifacts[key]) for key in ("model", "model_blessing")}
    for candidate, baseline in ((first, second), (second, first)):
        asked = {**given, "candidate": [candidate]}
        found = LatestOtherBlessedModel().resolve_artifacts(history.store, asked)
        assert [model.id for model in found["model"]] == [baseline.id]


def test_deleted_models_and_data_are_not_baselines(history):
    kept, gone = [], []
    for found in (kept, gone):
        examples, statistics = history.data()
        found += [statistics, history.train(examples, custom_config='{"a": 0}')]
    examples, candidate = history.data()
    given = {key: list(history.artifacts[key]) for key in ("model", "model_blessing")}

    def baseline():
        asked = {**given, "candidate": []}
        (model,) = LatestOtherBlessedModel().resolve_artifacts(history.store, asked)["model"]
        return model.id

    assert baseline() == gone[1].id
    _delete(gone[1])
    assert baseline() == kept[1].id
    assert history.base_model(examples, '{"a": 1}') == [kept[1].id]
    assert history.resolve(candidate) == [gone[0].id]
    _delete(gone[0])
    assert history.resolve(candidate) == [kept[0].id]

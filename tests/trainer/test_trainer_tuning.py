"""The Tuner and the Trainer as TFX runs them, with a tiny network."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import keras_tuner
import numpy as np
import pytest
from tfx.components.trainer.executor import GenericExecutor
from tfx.components.tuner.executor import Executor as TunerExecutor
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import (
    Examples,
    HyperParameters,
    Model,
    ModelRun,
    TransformGraph,
    TunerResults,
)
from tfx.utils import json_utils

from data.errors import DataError
from trainer import checkpoints, export, selection, tuning
from trainer.config import TrainerConfig
from trainer.run import with_values
from trainer.tuning import search_space

pytestmark = pytest.mark.usefixtures("tiny_detector")

CONFIG = TrainerConfig(
    detector="ssd128-small",
    augmentation="none",
    batch_size=4,
    steps=6,
    learning_rate=0.02,
    warmup_learning_rate=0.002,
    warmup_steps=2,
    log_every=2,
    checkpoint_every=2,
    eval_every=2,
)
TUNER = {"trials": 2, "steps": 4}


@pytest.fixture(scope="module")
def inputs(make, transform_folder, sample_classes, tmp_path_factory):
    """Inputs of Tuner and Trainer: squares on grey in two splits, and the transform graph."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    examples, graph = Examples(), TransformGraph()
    examples.uri, graph.uri = str(folder / "examples"), str(transform_folder)
    examples.split_names = artifact_utils.encode_split_names(["train", "eval"])
    for split, number in (("train", 12), ("eval", 4)):
        records = []
        for index in range(number):
            picture = rng.normal(120, 10, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            y, x = rng.integers(0, 20, 2)
            picture[y : y + 12, x : x + 12] = 240
            box = np.array([y, x, y + 12, x + 12]) / 32
            records.append(make.record(index, make.encode(picture), [box], sample_classes[:1]))
        make.write_shards(folder / "examples" / f"Split-{split}", records)
    return {"examples": [examples], "transform_graph": [graph]}


def _properties(folder, sample_classes, config=CONFIG):
    custom_config = {
        "preset": "tiny",
        "trainer": dataclasses.asdict(config),
        "classes": list(sample_classes),
        "code_version": "c0de",
        "work_dir": str(folder / "work"),
        "tuner": TUNER,
    }
    return {
        "train_args": "{}",
        "eval_args": "{}",
        "tuner_fn": "trainer.tuning.tuner_fn",
        "run_fn": "trainer.run.run_fn",
        "custom_config": json_utils.dumps(custom_config),
    }


def _outputs(folder, **kinds):
    outputs = {}
    for name, kind in kinds.items():
        artifact = kind()
        artifact.uri = str(folder / name)
        (folder / name).mkdir(parents=True)
        outputs[name] = [artifact]
    return outputs


@pytest.fixture
def unexported():
    """Skips the SavedModel, which would take longer than these trainings."""

    def export_nothing(detector, folder, *_):
        folder.mkdir(parents=True)

    with mock.patch.object(export, "export", export_nothing):
        yield


def _tune(folder, inputs, outputs, properties):
    context = BaseExecutor.Context(tmp_dir=str(folder / "temp"), unique_id="1")
    TunerExecutor(context).Do(inputs, outputs, properties)


@pytest.fixture(scope="module")
def tuned(inputs, sample_classes, tiny_detector, tmp_path_factory):
    """The real executor's outputs after two trials."""
    folder = tmp_path_factory.mktemp("tuner")
    outputs = _outputs(folder, best_hyperparameters=HyperParameters, tuner_results=TunerResults)
    _tune(folder, inputs, outputs, _properties(folder, sample_classes))
    return outputs


def _read(artifacts):
    (artifact,) = artifacts
    (path,) = Path(artifact.uri).iterdir()
    return json.loads(path.read_text())


@dataclasses.dataclass(frozen=True)
class _Job:
    """Records what a trial does with a Job."""

    config: TrainerConfig
    trained: list = dataclasses.field(default_factory=list)

    def new_detector(self):
        return "served"

    def new_network(self):
        return "network"

    def train(self, *given):
        self.trained.append((self.config, *given))
        return None, selection.Best(4, 0.75)


@pytest.fixture
def tuner_of(tmp_path, monkeypatch):
    """Makes a Job's tuner."""

    def tuner_of(job):
        monkeypatch.setattr(tuning, "Job", SimpleNamespace(from_arguments=lambda _: job))
        given = SimpleNamespace(custom_config={"tuner": TUNER}, working_dir=str(tmp_path))
        return tuning.tuner_fn(given).tuner

    return tuner_of


_VALUES = {"learning_rate": 0.5, "weight_decay": 0.1, "warmup_steps": 1}
_TRIAL = SimpleNamespace(trial_id="1", hyperparameters=SimpleNamespace(values=_VALUES))


def test_the_search_starts_at_the_configured_values(tuner_of):
    oracle = tuner_of(_Job(dataclasses.replace(CONFIG, seed=5))).oracle
    assert (oracle.seed, oracle.max_trials) == (5, TUNER["trials"])
    assert (oracle.objective.name, oracle.objective.direction) == ("eval_mAP", "max")
    configured = {name: getattr(CONFIG, name) for name in _VALUES}
    assert oracle.populate_space("0") == {"status": "RUNNING", "values": configured}


def test_a_trial_is_trained_with_its_values_and_measured_after_its_steps(tuner_of, tmp_path):
    job = _Job(CONFIG)
    assert tuner_of(job).run_trial(_TRIAL, verbose=0) == {"eval_mAP": 0.75}
    config = dataclasses.replace(CONFIG, **_VALUES, steps=4, checkpoint_every=4, eval_every=4)
    assert job.trained == [(config, "network", "served", tmp_path / "1")]


def test_a_trial_that_diverges_scores_zero_and_other_errors_stop_the_search(tuner_of, monkeypatch):
    tuner = tuner_of(_Job(CONFIG))
    monkeypatch.setattr(_Job, "train", mock.Mock(side_effect=FloatingPointError("nan")))
    assert tuner.run_trial(_TRIAL, verbose=0) == {"eval_mAP": 0.0}
    monkeypatch.setattr(_Job, "train", mock.Mock(side_effect=DataError("no room")))
    with pytest.raises(keras_tuner.errors.FatalError, match="no room"):
        tuner.run_trial(_TRIAL, verbose=0)


@pytest.mark.parametrize(("decay", "middle"), [(0.01, 0.01), (0.0, 5e-4)])
def test_rates_are_searched_within_a_factor_of_ten(decay, middle):
    config = dataclasses.replace(CONFIG, weight_decay=decay)
    rate, found, _ = search_space(config, 4).space
    assert (rate.min_value, rate.default, rate.max_value) == pytest.approx((0.002, 0.02, 0.2))
    wanted = (middle / 10, middle, middle * 10)
    assert (found.min_value, found.default, found.max_value) == pytest.approx(wanted)
    assert {rate.sampling, found.sampling} == {"log"}


@pytest.mark.slow
def test_trials_search_around_the_configured_values(tuned):
    results = _read(tuned["tuner_results"])
    assert len(results) == 2
    wanted = {name: getattr(CONFIG, name) for name in results[0] if hasattr(CONFIG, name)}
    assert set(wanted) == {"learning_rate", "weight_decay", "warmup_steps"}
    found = [{name: row[name] for name in wanted} for row in results]
    assert wanted in found
    (other,) = (row for row in found if row != wanted)
    for name in ("learning_rate", "weight_decay"):
        assert wanted[name] / 10 <= other[name] <= wanted[name] * 10
    assert 0 <= other["warmup_steps"] <= TUNER["steps"] // 2
    assert all(0 <= row["score"] <= 1 for row in results)


@pytest.mark.slow
@pytest.mark.usefixtures("unexported")
def test_the_trainer_takes_the_best_values(tuned, inputs, sample_classes, tmp_path, messages):
    best = _read(tuned["best_hyperparameters"])["values"]
    results = _read(tuned["tuner_results"])
    assert max(row["score"] for row in results) in [
        row["score"] for row in results if all(row[name] == best[name] for name in best)
    ]
    given = {**inputs, "hyperparameters": tuned["best_hyperparameters"]}
    outputs = _outputs(tmp_path, model=Model, model_run=ModelRun)
    GenericExecutor().Do(given, outputs, _properties(tmp_path, sample_classes))
    summary = json.loads((tmp_path / "model_run" / "summary.json").read_text())
    for name, value in dataclasses.asdict(CONFIG).items():
        value = list(value) if isinstance(value, tuple) else value
        assert summary["trainer"][name] == best.get(name, value)
    exported = summary["exported"]
    scores = {
        int(text.split("step=")[1].split("/")[0]): float(text.split("eval_mAP=")[1].split()[0])
        for text in messages()
        if "eval_mAP" in text and "/6" in text
    }
    assert set(scores) == {2, 4, 6}
    assert exported["eval_map"] == pytest.approx(max(scores.values()), abs=1e-4)
    assert scores[exported["step"]] == pytest.approx(exported["eval_map"], abs=1e-4)
    kept = sorted(path.name for path in (tmp_path / "model_run" / "checkpoints").iterdir())
    assert kept == ["best.npz", "step-00000004.npz", "step-00000006.npz"]


class Killed(Exception):
    """Simulates a killed training."""


def _train(folder, inputs, sample_classes, patch=None):
    """Runs the Trainer; returns what it exported and the best checkpoint's arrays."""
    outputs = _outputs(folder, model=Model, model_run=ModelRun)
    properties = _properties(folder, sample_classes)
    if patch:
        with patch, pytest.raises(Killed):
            GenericExecutor().Do(inputs, outputs, properties)
        (work,) = (folder / "work").iterdir()
        left = sorted(path.name for path in (work / "checkpoints").iterdir())
        assert left == ["best.npz", "step-00000002.npz"]
    GenericExecutor().Do(inputs, outputs, properties)
    summary = json.loads((folder / "model_run" / "summary.json").read_text())
    with np.load(folder / "model_run" / "checkpoints" / "best.npz") as best:
        return summary["exported"], {key: best[key] for key in best}


@pytest.mark.e2e
@pytest.mark.usefixtures("unexported")
def test_a_killed_training_chooses_the_same_step(inputs, sample_classes, tmp_path):
    """Killed between a step's evaluation and its checkpoint."""
    save = checkpoints.save

    def until_four(folder, step, *rest):
        if step == 4:
            raise Killed
        return save(folder, step, *rest)

    killing = mock.patch.object(checkpoints, "save", until_four)
    exported, weights = _train(tmp_path / "whole", inputs, sample_classes)
    resumed, resumed_weights = _train(tmp_path / "killed", inputs, sample_classes, killing)
    assert exported == resumed
    for key, value in weights.items():
        np.testing.assert_array_equal(value, resumed_weights[key])


@pytest.mark.slow
def test_the_trainer_starts_from_the_base_model(inputs, sample_classes, tmp_path, messages):
    config = dataclasses.replace(CONFIG, steps=1, eval_every=0)
    outputs = _outputs(tmp_path / "first", model=Model, model_run=ModelRun)
    GenericExecutor().Do(inputs, outputs, _properties(tmp_path, sample_classes, config))
    again = _outputs(tmp_path / "second", model=Model, model_run=ModelRun)
    given = {**inputs, "base_model": outputs["model"]}
    GenericExecutor().Do(given, again, _properties(tmp_path, sample_classes, config))
    base = f"{tmp_path}/first/model/Format-Serving"
    assert any(f"backbone 4 layers from {base}, heads 4 layers" in text for text in messages())
    first, summary = (
        json.loads((tmp_path / name / "model_run" / "summary.json").read_text())
        for name in ("first", "second")
    )
    assert summary["base_model"] == base
    assert summary["exported"] == {"step": 1, "eval_map": None}
    assert summary["starting_weights_sha256"] != first["starting_weights_sha256"]


@pytest.mark.parametrize("steps", [1, 4, 24])
def test_no_warm_up_is_longer_than_half_the_trial_or_the_training(steps):
    config = dataclasses.replace(CONFIG, schedule="cosine")
    (warmup,) = (one for one in search_space(config, steps).space if one.name == "warmup_steps")
    assert warmup.max_value == min(steps, CONFIG.steps) // 2
    assert warmup.default == min(CONFIG.warmup_steps, warmup.max_value)
    values = {"warmup_steps": warmup.max_value}
    assert with_values(config, {"values": values}).warmup_steps < CONFIG.steps


def test_tuned_values_override_configured_ones():
    assert with_values(CONFIG, None) == CONFIG
    assert with_values(CONFIG, {"space": [], "values": {"weight_decay": 0.5}}) == (
        dataclasses.replace(CONFIG, weight_decay=0.5)
    )

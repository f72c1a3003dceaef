"""Inputs and parameters of every component of the pipeline, without running any."""

import json
from pathlib import Path

import pytest
from tensorflow_model_analysis.proto import config_pb2
from tfx.proto import (
    example_gen_pb2,
    infra_validator_pb2,
    pusher_pb2,
    trainer_pb2,
    transform_pb2,
)
from tfx.utils import proto_utils

from components.mean_average_precision import metric_names
from data.fields import HIKAPOK
from pipeline.code_version import code_version
from pipeline.config import PRESETS
from pipeline.kubeflow.pushed import PushedBaselines

_DEPLOYMENT = Path(__file__).parents[2] / "serving" / "kubernetes" / "deployment.yaml"
# Every COMPONENT.INPUT, and the COMPONENT.OUTPUT it comes from.
_EXAMPLES = "ImportExampleGen.examples"
_STATISTICS = "StatisticsGen.statistics"
_MODEL = "Trainer.model"
_EDGES = {
    "StatisticsGen.examples": _EXAMPLES,
    "ExampleValidator.statistics": _STATISTICS,
    "ExampleValidator.schema": "ImportSchemaGen.schema",
    "latest_blessed_data.candidate": _STATISTICS,
    "DataGate.examples": _EXAMPLES,
    "DataGate.statistics": _STATISTICS,
    "DataGate.anomalies": "ExampleValidator.anomalies",
    "DataGate.baseline": "latest_blessed_data.statistics",
    "DataVerdict.report": "DataGate.report",
    "Transform.examples": _EXAMPLES,
    "Transform.schema": "ImportSchemaGen.schema",
    "Trainer.examples": _EXAMPLES,
    "Trainer.transform_graph": "Transform.transform_graph",
    "latest_blessed_model.candidate": _MODEL,
    "Evaluator.examples": _EXAMPLES,
    "Evaluator.model": _MODEL,
    "Evaluator.baseline_model": "latest_blessed_model.model",
    "ModelCard.examples": _EXAMPLES,
    "ModelCard.model": _MODEL,
    "ModelCard.model_run": "Trainer.model_run",
    "ModelCard.evaluation": "Evaluator.evaluation",
    "ModelCard.blessing": "Evaluator.blessing",
    "ModelCard.gate": "DataGate.report",
    "ServingCheck.model": _MODEL,
    "ServingCheck.examples": _EXAMPLES,
    "Pusher.model": _MODEL,
    "Pusher.model_blessing": "Evaluator.blessing",
    "Pusher.infra_blessing": "ServingCheck.blessing",
    "Pusher.card": "ModelCard.card",
    "Pusher.statistics": _STATISTICS,
    "DetectionReport.card": "ModelCard.card",
    "DetectionReport.model": _MODEL,
    "DetectionReport.evaluation": "Evaluator.evaluation",
    "DetectionReport.model_run": "Trainer.model_run",
    "DetectionReport.examples": _EXAMPLES,
    "DetectionReport.statistics": _STATISTICS,
    "DetectionReport.infra_blessing": "ServingCheck.blessing",
    "DetectionReport.pushed_model": "Pusher.pushed_model",
}
_TUNED = {
    "Tuner.examples": _EXAMPLES,
    "Tuner.transform_graph": "Transform.transform_graph",
    "Trainer.hyperparameters": "Tuner.best_hyperparameters",
}
_KEPT = {
    "DropLeaks.examples": _EXAMPLES,
    "DropLeaks.report": "DataGate.report",
    "Trainer.examples": "DropLeaks.kept",
}
_LATEST = {
    "base_model.examples": _EXAMPLES,
    "base_model.transform_graph": "Transform.transform_graph",
    "Trainer.base_model": "base_model.model",
}
_INFERRED = {
    "BulkInferrer.examples": _EXAMPLES,
    "BulkInferrer.model": _MODEL,
    "BulkInferrer.model_blessing": "Evaluator.blessing",
}
_ALL = {
    **_TUNED,
    **_KEPT,
    **_LATEST,
    "Tuner.examples": "DropLeaks.kept",
    "Tuner.base_model": "base_model.model",
    "base_model.examples": "DropLeaks.kept",
}


def _edges(pipeline):
    found = {}
    for component in pipeline.components:
        for key, channel in getattr(component, "raw_inputs", component.inputs).items():
            # A resolver's other inputs are all artifacts of a type.
            if getattr(channel, "producer_component_id", None):
                source = f"{channel.producer_component_id}.{channel.output_key}"
                found[f"{component.id}.{key}"] = source
    return found


@pytest.mark.parametrize(
    ("settings", "edges"),
    [
        ((), {}),
        (("data.on_leak=drop_train",), _KEPT),
        (("tuner.enabled=true",), _TUNED),
        (("bulk_inferrer.enabled=true",), _INFERRED),
        (("trainer.warm_start=latest",), _LATEST),
        (("trainer.warm_start=/models/7",), {"Trainer.base_model": "base_model.result"}),
        (("data.on_leak=drop_train", "tuner.enabled=true", "trainer.warm_start=latest"), _ALL),
        (
            ("training_job.workers=2", "training_job.image=i", "training_job.volumes=c:/v"),
            {},
        ),
    ],
    ids=lambda value: ",".join(value) or "defaults" if isinstance(value, tuple) else "",
)
def test_every_input_comes_from_the_right_output(build, settings, edges):
    assert _edges(build(*settings)) == {**_EDGES, **edges}


@pytest.mark.parametrize("platform", ["docker", "kubernetes"])
def test_tensorflow_serving_can_replace_the_embedded_server(build, platform):
    pipeline = build(f"serving.infra_validator={platform}", "serving.check_pictures=3")
    edges = {key.replace("ServingCheck", "InfraValidator"): source.replace(
        "ServingCheck", "InfraValidator") for key, source in _EDGES.items()}  # fmt: skip
    assert _edges(pipeline) == edges
    properties = _components(pipeline)["InfraValidator"].exec_properties
    request = _proto(properties["request_spec"], infra_validator_pb2.RequestSpec)
    assert (request.split_name, request.num_examples) == ("test", 3)
    assert list(request.tensorflow_serving.signature_names) == ["serving_examples"]
    serving = _proto(properties["serving_spec"], infra_validator_pb2.ServingSpec)
    assert serving.WhichOneof("serving_platform") in (platform, f"local_{platform}")
    assert serving.model_name == "ssd"
    (tag,) = serving.tensorflow_serving.tags
    assert f"tensorflow/serving:{tag}" in _DEPLOYMENT.read_text()


def test_an_inferred_schema_ends_the_pipeline(build):
    pipeline = build(schema_path=None)
    assert _edges(pipeline) == {
        "StatisticsGen.examples": _EXAMPLES,
        "SchemaGen.statistics": _STATISTICS,
    }
    assert _components(pipeline)["SchemaGen"].exec_properties["infer_feature_shape"]


def test_the_gate_stops_the_rest_of_the_pipeline(build):
    components = _components(build())
    assert components["DataVerdict"] in components["Transform"].upstream_nodes


def test_baselines_get_the_runs_artifacts(build):
    pipeline = build(
        *("data.on_leak=drop_train", "trainer.warm_start=latest"),
        baselines=PushedBaselines("/serving/ssd"),
    )
    found = _edges(pipeline)
    assert found["latest_blessed_model.candidate"] == _MODEL
    assert found["Trainer.base_model"] == "base_model.model"
    components = _components(pipeline)
    for name in ("latest_blessed_model", "latest_blessed_data", "base_model"):
        assert components[name].exec_properties["model_dir"] == "/serving/ssd"
    assert "candidate" not in components["base_model"].inputs


def _components(pipeline):
    return {component.id: component for component in pipeline.components}


def _proto(text, kind):
    found = kind()
    proto_utils.json_to_proto(text, found)
    return found


@pytest.fixture(scope="module")
def parameters_of(build):
    """The parameters of a component in a pipeline with these settings."""

    def parameters_of(component, *settings, **options):
        return _components(build(*settings, **options))[component].exec_properties

    return parameters_of


def test_each_split_goes_where_it_belongs(parameters_of):
    config = _proto(parameters_of("ImportExampleGen")["input_config"], example_gen_pb2.Input)
    found = {split.name: split.pattern for split in config.splits}
    assert found == {"train": "a/*", "eval": "b/*", "test": "c/*"}
    for settings in ((), ("tuner.enabled=true",), ("data.on_leak=drop_train",)):
        trainer = parameters_of("Trainer", *settings)
        assert list(_proto(trainer["train_args"], trainer_pb2.TrainArgs).splits) == ["train"]
        assert list(_proto(trainer["eval_args"], trainer_pb2.EvalArgs).splits) == ["eval"]
    # TFX's defaults, train and eval.
    tuner = parameters_of("Tuner", "tuner.enabled=true")
    assert tuner["train_args"] == tuner["eval_args"] == "{}"
    analysed = _proto(parameters_of("Transform")["splits_config"], transform_pb2.SplitsConfig)
    assert (list(analysed.analyze), list(analysed.transform)) == (["train"], [])
    assert json.loads(parameters_of("Evaluator")["example_splits"]) == ["test"]
    assert (
        parameters_of("ServingCheck")["split"]
        == parameters_of("DetectionReport")["split"]
        == "test"
    )


def test_tfx_gets_the_number_of_steps_too(parameters_of):
    arguments = _proto(
        parameters_of("Trainer", "trainer.steps=77")["train_args"], trainer_pb2.TrainArgs
    )
    assert arguments.num_steps == 77


# For every setting that affects a training's result, a value other than the sample preset's.
_TRAINER = {
    "detector": "ssd300-mobilenet",
    "anchors": "clipped",
    "backbone_weights": "imagenet",
    "augmentation": "paper",
    "use_difficult": "false",
    "batch_size": 6,
    "steps": 999,
    "learning_rate": 0.03,
    "backbone_rate": 0.5,
    "schedule": "cosine",
    "warmup_steps": 11,
    "warmup_learning_rate": 0.003,
    "learning_rate_steps": "0.25,0.75",
    "momentum": 0.8,
    "weight_decay": 0.004,
    "double_bias_rate": "true",
    "clip_norm": 2.5,
    "ema": 0.99,
    "matching_iou": 0.4,
    "negatives_per_positive": 4,
    "score_threshold": 0.05,
    "candidates_per_class": 300,
    "nms_iou": 0.6,
    "max_detections": 123,
    "precision": "mixed_bfloat16",
    "xla": "true",
    "seed": 5,
    "shuffle_buffer": 99,
    "eval_every": 30,
    "patience": 4,
    "frozen_stages": 2,
    "warm_start": "/models/7",
}
# These replace three of them.
_RELATIVE = {"epochs": 3.5, "warmup_fraction": 0.25, "eval_every_epochs": 1.5}
_REPORTING = {"log_every": 3, "checkpoint_every": 4, "keep_checkpoints": 5}
_GATE = {
    "on_leak": "drop_train",
    "leak_distance": 7,
    "block_on": "anchors,sizes",
    "max_unmatchable": 0.5,
    "min_pictures": 9,
    "max_skew": 0.3,
    "max_drift": 0.4,
}
_SERVING = {
    "check_pictures": 5,
    "max_latency_ms": 321.0,
    "max_memory_mb": 1234.0,
    "score_tolerance": 0.25,
}


def _settings(part, values):
    return [f"{part}.{name}={value}" for name, value in values.items()]


def _as_json(value):
    """A value from the command line as it appears in a component's JSON."""
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, str) and "," in value:
        parts = value.split(",")
        return [float(part) for part in parts] if parts[0][0].isdigit() else parts
    return value


def test_every_setting_of_a_training_reaches_it(parameters_of):
    expected = {name: _as_json(value) for name, value in _TRAINER.items()}
    expected |= dict.fromkeys(_RELATIVE)
    for component in ("Trainer", "Tuner"):
        plain = json.loads(parameters_of(component, "tuner.enabled=true")["custom_config"])[
            "trainer"
        ]
        # Add new settings above.
        assert plain.keys() == expected.keys()
        settings = [*_settings("trainer", _TRAINER), "tuner.enabled=true"]
        custom = json.loads(parameters_of(component, *settings)["custom_config"])
        assert custom["trainer"] == expected
        assert not [name for name in _TRAINER if plain[name] == expected[name]]
        relative = parameters_of(component, *_settings("trainer", _RELATIVE), "tuner.enabled=true")
        found = json.loads(relative["custom_config"])["trainer"]
        changed = {name: value for name, value in found.items() if value != plain[name]}
        assert changed == {**_RELATIVE, "steps": None, "warmup_steps": None, "eval_every": None}
        assert custom["preset"] == "sample"
        assert custom["classes"] == ["star", "cross"]
        assert custom["work_dir"] == "/volume/unfinished"
        assert custom["code_version"] == code_version("trainer.run")


def test_the_tuner_gets_its_search_settings(parameters_of):
    settings = ("tuner.enabled=true", "tuner.trials=3", "tuner.steps=17")
    tuner = parameters_of("Tuner", *settings)
    found = json.loads(tuner["custom_config"])["tuner"]
    assert (found["trials"], found["steps"]) == (3, 17)
    assert tuner["tuner_fn"] == "trainer.tuning.tuner_fn"
    # The number of trials must not make the Trainer train again.
    assert "tuner" not in json.loads(parameters_of("Trainer", *settings)["custom_config"])


def test_every_setting_of_the_gate_reaches_it(parameters_of):
    gate = parameters_of(
        "DataGate", *_settings("data", _GATE), "trainer.anchors=clipped", fields=HIKAPOK
    )
    assert json.loads(gate["config"]) == {n: _as_json(v) for n, v in _GATE.items()}
    plain = parameters_of("DataGate")
    assert json.loads(plain["config"]).keys() == _GATE.keys()
    assert (gate["anchors"], gate["detector"]) == ("clipped", "ssd128-small")
    assert parameters_of("DataGate", "trainer.matching_iou=0.4")["matching_iou"] == 0.4
    presets = json.loads(gate["presets"])
    # The sample preset's anchors only suit drawn pictures.
    assert presets.keys() == PRESETS.keys() - {"sample"}
    assert presets["ssd512-voc"] == ["ssd512-vgg16", "paper"]
    assert parameters_of("DataGate", "trainer.detector=ssd300-vgg16")["detector"] == "ssd300-vgg16"
    assert json.loads(gate["classes"]) == ["star", "cross"]
    assert json.loads(gate["fields"])["text"] == HIKAPOK.text


def test_leaks_are_dropped_by_the_records_id(parameters_of):
    assert parameters_of("DropLeaks", "data.on_leak=drop_train")["id_feature"] == "image/source_id"
    seed = parameters_of("DropLeaks", "data.on_leak=drop_train", fields=HIKAPOK)
    assert seed["id_feature"] == HIKAPOK.filename


def test_every_limit_of_the_serving_check_reaches_it(parameters_of):
    check = parameters_of("ServingCheck", *_settings("serving", _SERVING))
    assert {name: check[name] for name in _SERVING} == _SERVING


def test_the_transform_gets_the_classes_and_writes_no_pictures(parameters_of):
    transform = parameters_of("Transform")
    assert json.loads(transform["custom_config"])["classes"] == ["star", "cross"]
    assert transform["preprocessing_fn"] == "trainer.preprocessing.preprocessing_fn"
    assert transform["disable_statistics"]
    assert "transformed_examples" not in transform


def test_statistics_exclude_the_pictures(parameters_of):
    options = json.loads(parameters_of("StatisticsGen", fields=HIKAPOK)["stats_options_json"])
    picture = {"name": HIKAPOK.encoded, "type": "BYTES", "imageDomain": {}}
    assert json.loads(options["schema_json"]) == {"feature": [picture]}


def test_models_are_pushed_to_the_served_folder(parameters_of):
    destination = _proto(parameters_of("Pusher")["push_destination"], pusher_pb2.PushDestination)
    assert destination.filesystem.base_directory == "/serving/ssd"


def test_a_higher_map_is_better(parameters_of):
    settings = ("evaluator.min_map=0.61", "evaluator.min_map_change=-0.02")
    evaluator = parameters_of("Evaluator", *settings, "evaluator.min_class_ap=star:0.3")
    (spec,) = _proto(evaluator["eval_config"], config_pb2.EvalConfig).metrics_specs
    # In the order of their ids.
    assert json.loads(spec.metrics[0].config)["class_names"] == ["star", "cross"]
    assert evaluator["module_path"] == "components.mean_average_precision.picture_slices"
    (overall,) = spec.per_slice_thresholds[metric_names.MAP].thresholds
    assert overall.threshold.value_threshold.lower_bound.value == pytest.approx(0.61)
    assert not overall.threshold.value_threshold.HasField("upper_bound")
    (change,) = spec.per_slice_thresholds[metric_names.SIGNIFICANT].thresholds
    bound = change.threshold.change_threshold
    assert bound.direction == config_pb2.MetricDirection.HIGHER_IS_BETTER
    assert bound.absolute.value == pytest.approx(-0.02)
    (star,) = spec.per_slice_thresholds[metric_names.ap_name("star")].thresholds
    assert star.threshold.value_threshold.lower_bound.value == pytest.approx(0.3)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_cache_follows_the_option(build, enabled):
    assert build(enable_cache=enabled).enable_cache is enabled


def test_beam_options_are_passed_to_the_pipeline(build):
    pipeline = build(beam_args=["--runner=X"])
    assert "--runner=X" in pipeline.beam_pipeline_args

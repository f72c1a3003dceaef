"""What each component of the pipeline reads and is told, without running any."""

import json

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
from pipeline.kubeflow.pushed import PushedBaselines

# INPUT of each component, and the component and output that it comes from.
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
            # A resolver's others are all artifacts of a type.
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
def test_every_input_comes_from_where_it_should(build, settings, edges):
    assert _edges(build(*settings)) == {**_EDGES, **edges}


@pytest.mark.parametrize("platform", ["docker", "kubernetes"])
def test_tensorflow_serving_can_take_the_servers_place(build, platform):
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


def test_an_inferred_schema_ends_the_pipeline(build):
    pipeline = build(schema_path=None)
    assert _edges(pipeline) == {
        "StatisticsGen.examples": _EXAMPLES,
        "SchemaGen.statistics": _STATISTICS,
    }


def test_the_gate_stops_what_comes_after_it(build):
    components = _components(build())
    assert components["DataVerdict"] in components["Transform"].upstream_nodes


def test_baselines_are_asked_for_what_the_run_has(build):
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
def told(build):
    """The parameters of a component, by settings and its name."""

    def told(component, *settings, **options):
        return _components(build(*settings, **options))[component].exec_properties

    return told


def test_each_split_goes_where_it_belongs(told):
    config = _proto(told("ImportExampleGen")["input_config"], example_gen_pb2.Input)
    found = {split.name: split.pattern for split in config.splits}
    assert found == {"train": "a/*", "eval": "b/*", "test": "c/*"}
    for settings in ((), ("tuner.enabled=true",), ("data.on_leak=drop_train",)):
        trainer = told("Trainer", *settings)
        assert list(_proto(trainer["train_args"], trainer_pb2.TrainArgs).splits) == ["train"]
        assert list(_proto(trainer["eval_args"], trainer_pb2.EvalArgs).splits) == ["eval"]
    # TFX's defaults, train and eval.
    tuner = told("Tuner", "tuner.enabled=true")
    assert tuner["train_args"] == tuner["eval_args"] == "{}"
    analysed = _proto(told("Transform")["splits_config"], transform_pb2.SplitsConfig)
    assert (list(analysed.analyze), list(analysed.transform)) == (["train"], [])
    assert json.loads(told("Evaluator")["example_splits"]) == ["test"]
    assert told("ServingCheck")["split"] == told("DetectionReport")["split"] == "test"


def test_the_number_of_steps_is_told_to_tfx_too(told):
    arguments = _proto(told("Trainer", "trainer.steps=77")["train_args"], trainer_pb2.TrainArgs)
    assert arguments.num_steps == 77


# Another value than the sample preset's for every setting that decides a training's result.
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
# What takes the place of three of them.
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
    """What a value on the command line is in a component's JSON."""
    if value in ("true", "false"):
        return value == "true"
    if isinstance(value, str) and "," in value:
        parts = value.split(",")
        return [float(part) for part in parts] if parts[0][0].isdigit() else parts
    return value


def test_every_setting_of_a_training_reaches_it(told):
    expected = {name: _as_json(value) for name, value in _TRAINER.items()}
    expected |= dict.fromkeys(_RELATIVE)
    for component in ("Trainer", "Tuner"):
        plain = json.loads(told(component, "tuner.enabled=true")["custom_config"])["trainer"]
        # A setting that is new has to be added above.
        assert plain.keys() == expected.keys()
        settings = [*_settings("trainer", _TRAINER), "tuner.enabled=true"]
        custom = json.loads(told(component, *settings)["custom_config"])
        assert custom["trainer"] == expected
        assert not [name for name in _TRAINER if plain[name] == expected[name]]
        relative = told(component, *_settings("trainer", _RELATIVE), "tuner.enabled=true")
        found = json.loads(relative["custom_config"])["trainer"]
        changed = {name: value for name, value in found.items() if value != plain[name]}
        assert changed == {**_RELATIVE, "steps": None, "warmup_steps": None, "eval_every": None}
        assert custom["preset"] == "sample"
        assert custom["classes"] == ["star", "cross"]
        assert custom["work_dir"] == "/volume/unfinished"


def test_the_tuner_is_told_how_to_search(told):
    settings = ("tuner.enabled=true", "tuner.trials=3", "tuner.steps=17")
    tuner = told("Tuner", *settings)
    found = json.loads(tuner["custom_config"])["tuner"]
    assert (found["trials"], found["steps"]) == (3, 17)
    assert tuner["tuner_fn"] == "trainer.tuning.tuner_fn"
    # How many trials were made is no reason to train again with the values that they found.
    assert "tuner" not in json.loads(told("Trainer", *settings)["custom_config"])


def test_every_setting_of_the_gate_reaches_it(told):
    gate = told("DataGate", *_settings("data", _GATE), "trainer.anchors=clipped", fields=HIKAPOK)
    assert json.loads(gate["config"]) == {n: _as_json(v) for n, v in _GATE.items()}
    plain = told("DataGate")
    assert json.loads(plain["config"]).keys() == _GATE.keys()
    assert (gate["anchors"], gate["detector"]) == ("clipped", "ssd128-small")
    assert told("DataGate", "trainer.detector=ssd300-vgg16")["detector"] == "ssd300-vgg16"
    assert json.loads(gate["classes"]) == ["star", "cross"]
    assert json.loads(gate["fields"])["text"] == HIKAPOK.text


def test_leaks_are_left_out_by_the_records_own_id(told):
    assert told("DropLeaks", "data.on_leak=drop_train")["id_feature"] == "image/source_id"
    seed = told("DropLeaks", "data.on_leak=drop_train", fields=HIKAPOK)
    assert seed["id_feature"] == HIKAPOK.filename


def test_every_limit_of_the_serving_check_reaches_it(told):
    check = told("ServingCheck", *_settings("serving", _SERVING))
    assert {name: check[name] for name in _SERVING} == _SERVING


def test_the_transform_is_told_the_classes_and_writes_no_picture(told):
    transform = told("Transform")
    assert json.loads(transform["custom_config"])["classes"] == ["star", "cross"]
    assert transform["preprocessing_fn"] == "trainer.preprocessing.preprocessing_fn"
    assert transform["disable_statistics"]
    assert "transformed_examples" not in transform


def test_models_are_pushed_to_the_folder_that_is_served(told):
    destination = _proto(told("Pusher")["push_destination"], pusher_pb2.PushDestination)
    assert destination.filesystem.base_directory == "/serving/ssd"


def test_a_better_model_is_one_with_more_map(told):
    settings = ("evaluator.min_map=0.61", "evaluator.min_map_change=-0.02")
    text = told("Evaluator", *settings, "evaluator.min_class_ap=star:0.3")["eval_config"]
    (spec,) = _proto(text, config_pb2.EvalConfig).metrics_specs
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
def test_the_cache_is_used_as_asked(build, enabled):
    assert build(enable_cache=enabled).enable_cache is enabled


def test_beam_and_the_place_of_artifacts_are_passed_on(build):
    pipeline = build(beam_args=["--runner=X"])
    assert "--runner=X" in pipeline.beam_pipeline_args

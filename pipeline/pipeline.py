"""The TFX pipeline: one definition for every orchestrator."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from ml_metadata.proto.metadata_store_pb2 import ConnectionConfig
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components import (
    BulkInferrer,
    ExampleValidator,
    InfraValidator,
    SchemaGen,
    StatisticsGen,
    Trainer,
    Transform,
    Tuner,
)
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_node import BaseNode
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import (
    bulk_inferrer_pb2,
    example_gen_pb2,
    infra_validator_pb2,
    pusher_pb2,
    trainer_pb2,
    transform_pb2,
)
from tfx.types import Channel
from tfx.types.standard_artifacts import Model

from components.atomic_push.component import Pusher
from components.data_gate.component import DataGate, DataVerdict
from components.data_gate.config import DROP_TRAIN, DataGateConfig
from components.data_gate.drop_leaks import DropLeaks
from components.detection_report.component import DetectionReport
from components.evaluator.component import Evaluator
from components.example_gen import ShardExampleGen
from components.model_card.component import ModelCard
from components.serving_check.component import ServingCheck
from data.beam_runner import IN_PROCESS
from data.fields import Fields
from data.saved_model import EXAMPLES_SIGNATURE
from data.schema import read_schema
from data.settings import field_types
from data.splits import EVAL, TEST, TRAIN
from pipeline.baseline import MetadataBaselines
from pipeline.code_version import add_code_versions, code_version
from pipeline.config import PRESETS, Config, ServingConfig
from pipeline.evaluation import EXTRACTORS, evaluation_config
from trainer import reporting
from trainer.config import LATEST
from trainer.files import MODEL_NAME

BASELINE = "latest_blessed_model"
BASELINE_DATA = "latest_blessed_data"
BASE_MODEL = "base_model"
# The image that the manifests in serving/ deploy.
_TF_SERVING_TAG = "2.16.1"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The data of a run: a folder of TFRecords, the patterns of its splits, and its schema.

    If `schema_path` is None the schema is to be inferred, and `classes` is empty. `picture` is one
    to try the model on, if there are picture files.
    """

    records: Path
    patterns: dict[str, str]
    fields: Fields
    schema_path: Path | None
    classes: tuple[str, ...]
    picture: Path | None = None


class Baselines(Protocol):
    """Finds the latest blessed model and the data it was trained on.

    Each method returns a node with an output `model` or `statistics`. Its arguments belong to this
    run and are never the result.
    """

    def data(self, statistics: Channel) -> BaseNode:
        """The statistics of the data that the latest blessed model was trained on."""

    def model(self, model: Channel) -> BaseNode:
        """The latest blessed model."""

    def base_model(self, custom_config: dict, data: dict[str, Channel]) -> BaseNode:
        """The blessed model to start a training from."""


_METADATA_BASELINES = MetadataBaselines()


def create_pipeline(
    config: Config,
    inputs: Inputs,
    *,
    name: str,
    root: str,
    serving_dir: str,
    work_dir: str,
    enable_cache: bool = True,
    metadata_connection_config: ConnectionConfig | None = None,
    beam_args: Sequence[str] = IN_PROCESS,
    baselines: Baselines = _METADATA_BASELINES,
) -> Pipeline:
    """The components from TFRecords to the pushed model.

    Args:
      root: folder for TFX's artifacts.
      serving_dir: base path that TensorFlow Serving watches; versions are pushed into it.
      work_dir: folder for the checkpoints of unfinished trainings.
    """
    components = _data_components(config, inputs, baselines)
    if inputs.schema_path is not None:
        features = [feature.name for feature in read_schema(inputs.schema_path).feature]
        components += _model_components(
            config, inputs, features, components, serving_dir, work_dir, baselines
        )
    add_code_versions(components)
    return Pipeline(
        pipeline_name=name,
        pipeline_root=root,
        components=components,
        enable_cache=enable_cache,
        metadata_connection_config=metadata_connection_config,
        beam_pipeline_args=list(beam_args),
    )


def _data_components(config: Config, inputs: Inputs, baselines: Baselines) -> list:
    splits = [
        example_gen_pb2.Input.Split(name=split, pattern=pattern)
        for split, pattern in inputs.patterns.items()
    ]
    example_gen = ShardExampleGen(
        input_base=str(inputs.records), input_config=example_gen_pb2.Input(splits=splits)
    ).with_id("ImportExampleGen")
    examples = example_gen.outputs["examples"]
    statistics_gen = StatisticsGen(examples, stats_options=_statistics_options(inputs))
    statistics = statistics_gen.outputs["statistics"]
    if inputs.schema_path is None:
        schema_gen = SchemaGen(statistics, infer_feature_shape=True)
        return [example_gen, statistics_gen, schema_gen]
    schema_gen = ImportSchemaGen(schema_file=str(inputs.schema_path))
    validator = ExampleValidator(statistics, schema_gen.outputs["schema"])
    baseline = baselines.data(statistics).with_id(BASELINE_DATA)
    settings = {name: getattr(config.data, name) for name in field_types(DataGateConfig)}
    gate = DataGate(
        examples=examples,
        statistics=statistics,
        anomalies=validator.outputs["anomalies"],
        baseline=baseline.outputs["statistics"],
        config=json.dumps(settings),
        fields=json.dumps(dataclasses.asdict(inputs.fields)),
        classes=json.dumps(inputs.classes),
        detector=config.trainer.detector,
        anchors=config.trainer.anchors,
        matching_iou=config.trainer.matching_iou,
        presets=json.dumps(
            {
                name: (preset.trainer.detector, preset.trainer.anchors)
                for name, preset in PRESETS.items()
                if preset.data.schema != "sample"
            }
        ),
    )
    verdict = DataVerdict(report=gate.outputs["report"])
    return [example_gen, statistics_gen, schema_gen, validator, baseline, gate, verdict]


def _model_components(
    config: Config,
    inputs: Inputs,
    features: list[str],
    upstream: list[BaseNode],
    serving_dir: str,
    work_dir: str,
    baselines: Baselines,
) -> list:
    example_gen, statistics_gen, schema_gen, *_, gate, verdict = upstream
    examples, schema = example_gen.outputs["examples"], schema_gen.outputs["schema"]
    classes = list(inputs.classes)

    transform = Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn="trainer.preprocessing.preprocessing_fn",
        # The Trainer applies the graph to the original examples, so pictures are not copied.
        materialize=False,
        disable_statistics=True,
        splits_config=transform_pb2.SplitsConfig(analyze=[TRAIN]),
        custom_config={"classes": classes},
    )
    transform.add_upstream_node(verdict)

    before, trainer = _training_components(
        config, inputs, examples, gate, transform, work_dir, baselines
    )
    model = trainer.outputs["model"]

    baseline = baselines.model(model).with_id(BASELINE)
    evaluator = Evaluator(
        examples=examples,
        example_splits=[TEST],
        model=model,
        baseline_model=baseline.outputs["model"],
        eval_config=evaluation_config(config.evaluator, classes, inputs.fields, features),
        module_path=EXTRACTORS,
    )
    card = ModelCard(
        examples=examples,
        model=model,
        model_run=trainer.outputs["model_run"],
        evaluation=evaluator.outputs["evaluation"],
        blessing=evaluator.outputs["blessing"],
        gate=gate.outputs["report"],
    )
    serving_check = _serving_check(config.serving, model, examples)
    pusher = Pusher(
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_check.outputs["blessing"],
        card=card.outputs["card"],
        statistics=statistics_gen.outputs["statistics"],
        push_destination=pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(
                base_directory=f"{serving_dir}/{MODEL_NAME}"
            )
        ),
    )
    report = DetectionReport(
        card=card.outputs["card"],
        model=model,
        evaluation=evaluator.outputs["evaluation"],
        model_run=trainer.outputs["model_run"],
        examples=examples,
        statistics=statistics_gen.outputs["statistics"],
        infra_blessing=serving_check.outputs["blessing"],
        pushed_model=pusher.outputs["pushed_model"],
        split=TEST,
    )
    components = [
        *(transform, *before, trainer, baseline, evaluator),
        *(card, serving_check, pusher, report),
    ]
    if config.bulk_inferrer.enabled:
        components.append(
            BulkInferrer(
                examples=examples,
                model=model,
                model_blessing=evaluator.outputs["blessing"],
                data_spec=bulk_inferrer_pb2.DataSpec(example_splits=config.bulk_inferrer.splits),
                model_spec=bulk_inferrer_pb2.ModelSpec(model_signature_name=[EXAMPLES_SIGNATURE]),
            )
        )
    return components


def _training_components(
    config: Config,
    inputs: Inputs,
    examples: Channel,
    gate: BaseNode,
    transform: BaseNode,
    work_dir: str,
    baselines: Baselines,
) -> tuple[list[BaseNode], Trainer]:
    """(components that the configuration adds before the Trainer, the Trainer)."""
    before = []
    if config.data.on_leak == DROP_TRAIN:
        # Only if needed: it depends on the gate's report, so a new report would train again.
        kept = DropLeaks(
            examples=examples,
            report=gate.outputs["report"],
            id_feature=inputs.fields.source_id or inputs.fields.filename,
        )
        before.append(kept)
        examples = kept.outputs["kept"]
    custom_config = {
        "preset": config.preset,
        "trainer": reporting.without_reporting(config.trainer),
        "classes": list(inputs.classes),
        # For the model's record, and for the folder of its checkpoints.
        "code_version": code_version("trainer.run"),
        "work_dir": work_dir,
    }
    weights = Path(config.trainer.backbone_weights)
    if weights.is_file():
        # The path alone would not reveal that the file has changed.
        custom_config["backbone_weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    data = {"examples": examples, "transform_graph": transform.outputs["transform_graph"]}
    job = dataclasses.asdict(config.training_job) if config.training_job.workers else None
    # Baselines compare it with that of earlier trainings, to leave out what this one has made.
    training = {**custom_config, "training_job": job} if job else custom_config
    if base_model := _base_model(config.trainer.warm_start, training, data, baselines):
        before.append(base_model)
        data["base_model"] = next(iter(base_model.outputs.values()))
    hyperparameters = None
    if config.tuner.enabled:
        tuner = Tuner(
            tuner_fn="trainer.tuning.tuner_fn",
            custom_config={**custom_config, "tuner": dataclasses.asdict(config.tuner)},
            **data,
        )
        before.append(tuner)
        hyperparameters = tuner.outputs["best_hyperparameters"]
    trainer = Trainer(
        run_fn=f"{'components.distributed_trainer.launch' if job else 'trainer.run'}.run_fn",
        train_args=trainer_pb2.TrainArgs(splits=[TRAIN], num_steps=config.trainer.steps),
        eval_args=trainer_pb2.EvalArgs(splits=[EVAL]),
        hyperparameters=hyperparameters,
        custom_config=training,
        **data,
    )
    return before, trainer


def _base_model(
    warm_start: str, custom_config: dict, data: dict, baselines: Baselines
) -> BaseNode | None:
    """The node that provides the model to start from; None for none."""
    if not warm_start:
        return None
    if warm_start == LATEST:
        return baselines.base_model(custom_config, data).with_id(BASE_MODEL)
    uri = warm_start if "://" in warm_start else str(Path(warm_start).resolve())
    return Importer(source_uri=uri, artifact_type=Model).with_id(BASE_MODEL)


def _serving_check(config: ServingConfig, model: Channel, examples: Channel) -> BaseNode:
    """The component that checks the model on a server: the embedded one, or TensorFlow Serving."""
    if not config.infra_validator:
        return ServingCheck(
            model=model,
            examples=examples,
            split=TEST,
            check_pictures=config.check_pictures,
            max_latency_ms=config.max_latency_ms,
            max_memory_mb=config.max_memory_mb,
            score_tolerance=config.score_tolerance,
        )
    platforms = {
        "docker": {"local_docker": infra_validator_pb2.LocalDockerConfig()},
        "kubernetes": {"kubernetes": infra_validator_pb2.KubernetesConfig()},
    }
    return InfraValidator(
        model=model,
        examples=examples,
        serving_spec=infra_validator_pb2.ServingSpec(
            tensorflow_serving=infra_validator_pb2.TensorFlowServing(tags=[_TF_SERVING_TAG]),
            model_name=MODEL_NAME,
            **platforms[config.infra_validator],
        ),
        request_spec=infra_validator_pb2.RequestSpec(
            tensorflow_serving=infra_validator_pb2.TensorFlowServingRequestSpec(
                signature_names=[EXAMPLES_SIGNATURE]
            ),
            split_name=TEST,
            num_examples=config.check_pictures,
        ),
    )


def _statistics_options(inputs: Inputs) -> tfdv.StatsOptions:
    """Statistics of everything but the image bytes, which an image domain excludes."""
    schema = schema_pb2.Schema()
    text_format.Parse(
        f'feature {{ name: "{inputs.fields.encoded}" type: BYTES image_domain {{}} }}', schema
    )
    return tfdv.StatsOptions(schema=schema, infer_type_from_schema=False)

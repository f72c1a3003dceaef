"""The TFX components around `gate`."""

import json
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2
from tfx.dsl.component.experimental.annotations import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
)
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts

from components.artifacts import DATA_GATE_FILE, EXCLUDED_RECORDS, DataGateReport
from components.data_gate import gate
from components.data_gate.config import DataGateConfig
from components.data_gate.scan import scan
from components.data_gate.shift import measure_shifts
from data.fields import Fields
from data.splits import TRAIN
from trainer.model_zoo import anchor_spec


@component(use_beam=True)
def DataGate(
    examples: InputArtifact[standard_artifacts.Examples],
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    anomalies: InputArtifact[standard_artifacts.ExampleAnomalies],
    report: OutputArtifact[DataGateReport],
    config: Parameter[str],
    fields: Parameter[str],
    classes: Parameter[str],
    detector: Parameter[str],
    anchors: Parameter[str],
    matching_iou: Parameter[float],
    presets: Parameter[str],
    baseline: InputArtifact[standard_artifacts.ExampleStatistics] = None,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Writes facts about the data and what is wrong with it.

    config, fields, classes: JSON of a DataGateConfig's and a data.fields.Fields' fields, and of the
        schema's class names.
    detector, anchors: their anchors must match the objects, with at least `matching_iou`.
    presets: JSON of each one's detector and anchors, to suggest if they would match more.
    baseline: statistics of the latest blessed model's data.
    """
    settings = json.loads(config)
    settings = DataGateConfig(**settings)
    names = Fields(**json.loads(fields))
    splits = artifact_utils.decode_split_names(statistics.split_names)
    protos = {split: _read_statistics(statistics, split) for split in splits}
    found_anomalies = gate.list_anomalies(
        {split: _read_anomalies(anomalies, split) for split in splits}
    )
    counts = {split: gate.count_objects(proto) for split, proto in protos.items()}
    tf.io.gfile.makedirs(report.uri)
    own = anchor_spec(detector, anchors)
    others = {name: anchor_spec(*layout) for name, layout in json.loads(presets).items()}
    scanned = scan(
        beam_pipeline,
        {split: f"{examples.uri}/Split-{split}/*" for split in splits},
        names,
        own,
        matching_iou,
        settings.leak_distance,
        f"{report.uri}/found.jsonl",
        {name: spec for name, spec in others.items() if spec != own},
    )
    shifts = measure_shifts(
        protos,
        baseline and _read_statistics(baseline, TRAIN),
        names,
        settings.max_skew,
        settings.max_drift,
    )
    findings = gate.judge(found_anomalies, counts, scanned, shifts, json.loads(classes), settings)
    for split, facts in scanned.splits.items():
        counts[split]["unmatchable_objects"] = facts.unmatchable
    content = {
        "splits": counts,
        "anomalies": found_anomalies,
        "findings": [asdict(finding) for finding in findings],
        "leaks": [asdict(leak) for leak in scanned.leaks],
        "shifts": [asdict(shift) for shift in shifts],
        EXCLUDED_RECORDS: gate.excluded_records(scanned.leaks, settings),
    }
    with tf.io.gfile.GFile(f"{report.uri}/{DATA_GATE_FILE}", "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


@component
def DataVerdict(report: InputArtifact[DataGateReport]) -> None:
    """Stops the run when the data gate found errors.

    A separate component, because TFX removes the outputs of a component that fails.
    """
    path = Path(report.uri) / DATA_GATE_FILE
    found = json.loads(path.read_text(encoding="utf-8"))["findings"]
    gate.refuse_errors([gate.Finding(**finding) for finding in found], str(path))


def _read_statistics(
    artifact: standard_artifacts.ExampleStatistics, split: str
) -> statistics_pb2.DatasetFeatureStatisticsList:
    return tfdv.load_stats_binary(f"{artifact.uri}/Split-{split}/FeatureStats.pb")


def _read_anomalies(
    artifact: standard_artifacts.ExampleAnomalies, split: str
) -> anomalies_pb2.Anomalies:
    with tf.io.gfile.GFile(f"{artifact.uri}/Split-{split}/SchemaDiff.pb", "rb") as file:
        return anomalies_pb2.Anomalies.FromString(file.read())

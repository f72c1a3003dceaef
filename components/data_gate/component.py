"""The TFX component around `gate`."""

import json
from pathlib import Path

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.artifact import Artifact

from components.data_gate import gate

REPORT_FILE = "data_gate.json"


class DataGateReport(Artifact):
    """A folder with data_gate.json: counts per split and the anomalies, if any."""

    TYPE_NAME = "DataGateReport"


@component
def DataGate(
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    anomalies: InputArtifact[standard_artifacts.ExampleAnomalies],
    report: OutputArtifact[DataGateReport],
    code_version: Parameter[str],
):
    """Writes what the data is and stops the run when it has anomalies.

    `code_version` makes a change of the gate's code run it again.
    """
    splits = artifact_utils.decode_split_names(statistics.split_names)
    found = gate.list_anomalies({split: _read_anomalies(anomalies, split) for split in splits})
    counts = {split: gate.count_objects(_read_statistics(statistics, split)) for split in splits}
    summary = {"code_version": code_version, "splits": counts, "anomalies": found}
    folder = Path(report.uri)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, indent=2) + "\n"
    (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    gate.refuse_anomalies(found)


def _read_statistics(artifact, split: str):
    return tfdv.load_stats_binary(f"{artifact.uri}/Split-{split}/FeatureStats.pb")


def _read_anomalies(artifact, split: str):
    path = Path(artifact.uri) / f"Split-{split}" / "SchemaDiff.pb"
    return anomalies_pb2.Anomalies.FromString(path.read_bytes())

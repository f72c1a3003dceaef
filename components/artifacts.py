"""The artifacts that components exchange: their types and files."""

import json

import tensorflow as tf
from tfx.types.artifact import Artifact

from data.errors import DataError

DATA_GATE_FILE = "data_gate.json"
# In DATA_GATE_FILE: ids of the training records that DropLeaks drops.
EXCLUDED_RECORDS = "excluded_records"
FACTS_FILE = "facts.json"
# Next to the splits of the examples.
ORIGIN_FILE = "origin.json"
SERVING_CHECK_FILE = "serving_check.json"
REPORT_FILE = "report.html"

# Kubeflow Pipelines requires this form of type name for types that are not TFX's.


class DataGateReport(Artifact):
    """A folder with data_gate.json: counts per split, anomalies, findings, leaks and shifts."""

    TYPE_NAME = "ssd.DataGateReport"


class ModelCardFolder(Artifact):
    """A folder with model_card.md, model_card.html and facts.json."""

    TYPE_NAME = "ssd.ModelCardFolder"


class DetectionReportFile(Artifact):
    """A folder with report.html."""

    TYPE_NAME = "ssd.DetectionReportFile"


def read_json(path: str) -> dict:
    """Reads a JSON file written by an earlier component, on any file system TensorFlow supports.

    Raises:
      DataError: it is missing or damaged.
    """
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            return json.loads(file.read())
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}). Run the component that writes it again"
        ) from error

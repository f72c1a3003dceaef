import json
import re

import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.types import artifact_utils, standard_artifacts

from components.data_gate import component, gate
from data.errors import DataError
from data.fields import COMMON, SEED
from data.schema import SAMPLE_SCHEMA, VOC_SEED_SCHEMA, class_names, read_schema

_CLASSES = class_names(read_schema(SAMPLE_SCHEMA))


def _anomalies(**problems):
    proto = anomalies_pb2.Anomalies()
    for feature, description in problems.items():
        proto.anomaly_info[feature].description = description
    return proto


def test_anomalies_are_listed_by_split_and_feature():
    found = gate.list_anomalies(
        {
            "train": _anomalies(label="too large", box="missing"),
            "eval": _anomalies(),
            "test": _anomalies(label="unknown value"),
        }
    )
    assert found == [
        {"split": "test", "feature": "label", "problem": "unknown value"},
        {"split": "train", "feature": "box", "problem": "missing"},
        {"split": "train", "feature": "label", "problem": "too large"},
    ]


def test_an_anomaly_of_the_whole_split_is_listed():
    proto = _anomalies()
    proto.dataset_anomaly_info.description = "too few examples"
    found = gate.list_anomalies({"eval": proto})
    assert found == [{"split": "eval", "feature": "", "problem": "too few examples"}]
    with pytest.raises(DataError, match="  eval: whole split: too few examples"):
        gate.refuse_anomalies(found)


def test_the_error_lists_everything_and_says_what_to_do():
    found = [
        {"split": "test", "feature": "label", "problem": "unknown value: cow"},
        {"split": "train", "feature": "box", "problem": "missing"},
    ]
    with pytest.raises(DataError) as caught:
        gate.refuse_anomalies(found)
    lines = str(caught.value).splitlines()
    assert re.search(r"does not fit its schema, 2 anomalies:$", lines[0])
    assert lines[1:3] == ["  test: label: unknown value: cow", "  train: box: missing"]
    assert "data.schema=PATH" in lines[3]


def test_clean_data_passes():
    assert gate.list_anomalies({"train": _anomalies(), "test": _anomalies()}) == []
    gate.refuse_anomalies([])


def _record(fields, names):
    """A record whose objects have these names."""
    integers = {fields.height: [8], fields.width: [8]}
    integers |= {name: [1] * len(names) for name in (fields.label,)}
    integers |= {name: [0] * len(names) for name in (fields.difficult, fields.truncated)}
    texts = {fields.encoded: [b"jpeg"], fields.format: [b"jpeg"], fields.filename: [b"a.jpg"]}
    texts[fields.text] = [name.encode() for name in names]
    if fields == COMMON:
        integers[fields.occluded] = [0] * len(names)
        texts |= {fields.source_id: [b"a"], fields.sha256: [b"0"]}
    floats = {}
    for low, high in ((fields.ymin, fields.ymax), (fields.xmin, fields.xmax)):
        floats |= {low: [0.25] * len(names), high: [0.75] * len(names)}
    features = {n: tf.train.Feature(int64_list={"value": v}) for n, v in integers.items()}
    features |= {n: tf.train.Feature(bytes_list={"value": v}) for n, v in texts.items()}
    features |= {n: tf.train.Feature(float_list={"value": v}) for n, v in floats.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _statistics(folder, fields, pictures):
    """TFDV's statistics of pictures, each a list of class names, as StatisticsGen makes them."""
    path = folder / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for names in pictures:
            writer.write(_record(fields, names))
    schema = schema_pb2.Schema()
    schema.feature.add(name=fields.encoded, type=schema_pb2.BYTES).image_domain.SetInParent()
    return tfdv.generate_statistics_from_tfrecord(
        str(path),
        stats_options=tfdv.StatsOptions(schema=schema),
        pipeline_options=PipelineOptions(["--runner=FnApiRunner"]),
    )


def test_a_split_without_any_object(tmp_path):
    assert gate.count_objects(_statistics(tmp_path, COMMON, [[], []])) == {
        "pictures": 2,
        "objects": 0,
        "objects_per_class": {},
    }


def _run(tmp_path, statistics, schema):
    """Runs the component on statistics by split; returns its report."""
    artifacts = {
        "statistics": standard_artifacts.ExampleStatistics(),
        "anomalies": standard_artifacts.ExampleAnomalies(),
        "report": component.DataGateReport(),
    }
    for name, artifact in artifacts.items():
        artifact.uri = str(tmp_path / name)
    splits = artifact_utils.encode_split_names(list(statistics))
    artifacts["statistics"].split_names = splits
    artifacts["anomalies"].split_names = splits
    for split, proto in statistics.items():
        anomalies = tfdv.validate_statistics(proto, schema)
        for name, file, content in (
            ("statistics", "FeatureStats.pb", proto),
            ("anomalies", "SchemaDiff.pb", anomalies),
        ):
            path = tmp_path / name / f"Split-{split}" / file
            path.parent.mkdir(parents=True)
            path.write_bytes(content.SerializeToString())
    try:
        component.DataGate.test_call(**artifacts, code_version="v1")
    finally:
        report = json.loads((tmp_path / "report" / component.REPORT_FILE).read_text())
    return report


def test_the_component_reports_clean_data(tmp_path):
    statistics = _statistics(tmp_path, COMMON, [[_CLASSES[0]], [], _CLASSES[1::-1]])
    report = _run(tmp_path, {"train": statistics, "eval": statistics}, read_schema(SAMPLE_SCHEMA))
    counts = {
        "pictures": 3,
        "objects": 3,
        "objects_per_class": {_CLASSES[0]: 2, _CLASSES[1]: 1},
    }
    assert report == {
        "code_version": "v1",
        "splits": {"train": counts, "eval": counts},
        "anomalies": [],
    }


@pytest.mark.parametrize(
    ("fields", "schema"), [(COMMON, SAMPLE_SCHEMA), (SEED, VOC_SEED_SCHEMA)], ids=["common", "seed"]
)
def test_the_component_stops_on_an_unknown_class_and_leaves_its_report(tmp_path, fields, schema):
    statistics = _statistics(tmp_path, fields, [["yak"], ["yak"]])
    with pytest.raises(DataError, match=f"test: '?{fields.text}'?: .*yak"):
        _run(tmp_path, {"test": statistics}, read_schema(schema))
    report = json.loads((tmp_path / "report" / component.REPORT_FILE).read_text())
    assert any(entry["feature"].strip("'") == fields.text for entry in report["anomalies"])
    assert report["splits"]["test"]["objects_per_class"] == {"yak": 2}

"""The data gate: what blocks, its messages, data shifts, and the components."""

import json
import math

import apache_beam as beam
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.types import artifact_utils, standard_artifacts

from components.artifacts import DATA_GATE_FILE, DataGateReport
from components.data_gate import component, gate
from components.data_gate.config import DataGateConfig
from components.data_gate.drop_leaks import DropLeaks
from components.data_gate.scan import Leak, RecordProblem, Scan, SplitFacts
from components.data_gate.shift import Shift, measure_shifts
from data.errors import DataError
from data.fields import COMMON, HIKAPOK
from data.schema import SAMPLE_SCHEMA, VOC_HIKAPOK_SCHEMA, class_names, read_schema
from tests.components.gate_records import BOX, jpeg, record, statistics, write

CLASSES = class_names(read_schema(SAMPLE_SCHEMA))


def anomalies_of(**problems):
    proto = anomalies_pb2.Anomalies()
    for feature, description in problems.items():
        proto.anomaly_info[feature].description = description
    return proto


def test_anomalies_are_listed_by_split_and_feature():
    whole = anomalies_of()
    whole.dataset_anomaly_info.description = "too few examples"
    found = gate.list_anomalies(
        {"train": anomalies_of(label="too large", box="missing"), "eval": whole}
    )
    assert found == [
        {"split": "eval", "feature": "", "problem": "too few examples"},
        {"split": "train", "feature": "box", "problem": "missing"},
        {"split": "train", "feature": "label", "problem": "too large"},
    ]


def judge(anomalies=(), counts=None, problems=(), leaks=(), facts=None, shifts=(), **config):
    found = Scan(problems, leaks, facts or {})
    return gate.judge(
        anomalies, counts or {}, found, shifts, ("cat", "dog"), DataGateConfig(**config)
    )


def test_clean_data_has_no_findings():
    counts = {"train": {"pictures": 100, "objects_per_class": {"cat": 1, "dog": 2}}}
    assert judge(counts=counts, facts={"train": SplitFacts(100, 25), "test": SplitFacts()}) == []
    gate.refuse_errors([], "report")


def test_the_error_lists_all_findings_and_what_to_do():
    findings = judge(
        anomalies=[
            {"split": "test", "feature": "label", "problem": "unknown value: cow"},
            {"split": "eval", "feature": "", "problem": "too few examples"},
        ],
        problems=[RecordProblem("boxes", "train", f"r{n}", "box has no area") for n in range(25)],
        leaks=[
            Leak(("test", "x"), ("train", "y")),
            Leak(("eval", "v"), ("train", "w"), 7),
        ],
    )
    with pytest.raises(DataError) as caught:
        gate.refuse_errors(findings, "data_gate.json")
    lines = str(caught.value).splitlines()
    assert lines[0] == "the data does not fit its schema, 2 found:"
    assert lines[1:3] == [
        "  test: label: unknown value: cow",
        "  eval: whole split: too few examples",
    ]
    assert "data.schema=PATH" in lines[3]
    assert lines[4] == "a picture is in more than one split, 2 found:"
    assert lines[5] == "  test x and train y: the same bytes"
    assert lines[6] == "  eval v and train w: the same look (7 of 256 bits differ)"
    assert "data.on_leak=drop_train" in lines[7]
    assert lines[8] == "invalid box, 25 found:"
    assert lines[9] == "  train: r0: box has no area"
    assert lines[29:31] == ["  and 5 more", "Fix the annotations and convert again"]
    assert lines[31:] == ["All findings: data_gate.json"]


LEAKS = [
    Leak(("test", "t1"), ("train", "n1")),
    Leak(("eval", "e1"), ("train", "n1"), 3),
    Leak(("eval", "e2"), ("train", "n2"), 3),
    Leak(("eval", "t1"), ("test", "n3")),
]


def test_dropping_training_copies_is_recorded_and_affects_no_other_split():
    config = DataGateConfig(on_leak="drop_train")
    assert gate.excluded_records(LEAKS, config) == ["n1", "n2"]
    assert gate.excluded_records(LEAKS, DataGateConfig()) == []
    findings = judge(leaks=LEAKS, on_leak="drop_train")
    assert [finding.level for finding in findings] == ["error"] + ["warning"] * 3
    assert findings[0].text == "eval t1 and test n3: the same bytes"
    assert all(finding.text.endswith("left out of training") for finding in findings[1:])
    assert {finding.level for finding in judge(leaks=LEAKS)} == {"error"}


FINDINGS = {
    "pictures": {"problems": [RecordProblem("pictures", "train", "r", "cannot be decoded")]},
    "boxes": {"problems": [RecordProblem("boxes", "train", "r", "no area")]},
    "duplicates": {"problems": [RecordProblem("duplicates", "train", "r", "IoU 1")]},
    "anchors": {"facts": {"train": SplitFacts(100, 26, {"too tall": 2, "too small": 24})}},
    "classes": {"counts": {"test": {"pictures": 100, "objects_per_class": {"cat": 1}}}},
    "sizes": {"counts": {"test": {"pictures": 99, "objects_per_class": {"cat": 1, "dog": 1}}}},
    "skew": {"shifts": [Shift("skew", "eval", "f", "distance", 0.2, 0.1)]},
    "drift": {"shifts": [Shift("drift", "before", "f", "distance", 0.2, 0.1)]},
}
TEXTS = {
    "anchors": "train: 26 of 100 objects (26.0%) match no anchor, above 25.0%: "
    "24 too small (24.0%), 2 too tall (2.0%). No preset has anchors for more of them",
    "classes": "test: no dog",
    "sizes": "test: 99 pictures, under 100: not compared with others",
    "skew": "f of train and eval: distance 0.200, more than 0.1",
}


@pytest.mark.parametrize("check", FINDINGS)
def test_each_check_warns_or_blocks_as_configured(check):
    (finding,) = judge(**FINDINGS[check], block_on=(check,))
    assert (finding.check, finding.level) == (check, "error")
    assert finding.text.startswith(TEXTS.get(check, ""))
    with pytest.raises(DataError, match=f"{check}|Fix|Replace"):
        gate.refuse_errors([finding], "report")
    (finding,) = judge(**FINDINGS[check], block_on=())
    assert finding.level == "warning"
    gate.refuse_errors([finding], "report")


@pytest.mark.parametrize(
    ("of_others", "advice"),
    [
        ({"fine": 12, "coarse": 90}, "Preset fine would leave 12.0%"),
        ({"fine": 25}, "Preset fine would leave 25.0%"),
        ({"fine": 30, "coarse": 90}, "No preset matches enough; fine would leave 30.0%"),
        ({"fine": 40}, "No preset has anchors for more of them"),
    ],
)
def test_unmatched_objects_are_reported_with_a_better_preset(of_others, advice):
    facts = {"train": SplitFacts(100, 40, {"too small": 40}, of_others), "test": SplitFacts()}
    (finding,) = judge(facts=facts)
    assert finding.text.endswith(f"40 too small (40.0%). {advice}")


def test_a_shift_within_its_limit_is_not_a_finding():
    assert judge(shifts=[Shift("skew", "eval", "f", "distance", 0.1, 0.1)]) == []


@pytest.mark.parametrize(
    ("small", "judged"),
    [("", ["drift", "skew", "skew"]), ("eval", ["drift", "skew"]), ("train", [])],
)
def test_small_splits_are_not_compared(small, judged):
    shifts = [
        Shift("skew", "eval", "f", "distance", 0.2, 0.1),
        Shift("skew", "test", "f", "distance", 0.2, 0.1),
        Shift("drift", "before", "f", "distance", 0.2, 0.1),
    ]
    counts = {
        split: {"pictures": 30 if split == small else 31, "objects_per_class": {"cat": 1, "dog": 1}}
        for split in ("train", "eval", "test")
    }
    found = judge(shifts=shifts, counts=counts, min_pictures=31)
    assert sorted(f.check for f in found if f.check != "sizes") == judged
    assert not any("train and eval" in f.text for f in found if small == "eval")


@pytest.mark.parametrize(("block_on", "judged"), [(("skew",), ["skew"]), (("drift",), ["drift"])])
def test_small_splits_are_compared_if_that_blocks(block_on, judged):
    shifts = [Shift(check, "eval", "f", "distance", 0.2, 0.1) for check in ("skew", "drift")]
    counts = {"train": {"pictures": 30, "objects_per_class": {"cat": 1, "dog": 1}}}
    found = judge(shifts=shifts, counts=counts, min_pictures=31, block_on=block_on)
    assert [f.check for f in found if f.level == "error"] == judged
    (size,) = (f.text for f in found if f.check == "sizes")
    assert ("not compared" in size) == ("skew" not in block_on)


@pytest.mark.parametrize(
    "setting",
    [
        {"on_leak": "ignore"},
        {"leak_distance": 257},
        {"leak_distance": -2},
        {"block_on": ("leaks",)},
        {"max_skew": 1.5},
        {"max_drift": math.nan},
        {"max_unmatchable": -0.1},
        {"min_pictures": -1},
    ],
)
def test_settings_are_checked(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        DataGateConfig(**setting)


def many(count, name="star", box=BOX):
    return [record(f"{name}{n}", [(name, box)], b"no picture needed") for n in range(count)]


def test_shifts_of_classes_and_boxes_are_measured(tmp_path):
    protos = {
        "train": statistics(write(tmp_path / "train.gz", many(40))),
        "eval": statistics(write(tmp_path / "eval.gz", many(30) + many(10, "ring"))),
        "test": statistics(write(tmp_path / "test.gz", many(40, box=(0.0, 0.0, 0.1, 0.1)))),
    }
    shifts = {
        (shift.check, shift.other, shift.feature): shift
        for shift in measure_shifts(protos, protos["eval"], COMMON, 0.3, 0.2)
    }
    classes = shifts["skew", "eval", COMMON.text]
    assert (classes.value, classes.limit) == (pytest.approx(0.25), 0.3)
    assert shifts["skew", "eval", COMMON.ymax].value == pytest.approx(0, abs=1e-6)
    assert shifts["skew", "test", COMMON.text].value == pytest.approx(0, abs=1e-6)
    assert shifts["skew", "test", COMMON.ymax].value > 0.9
    drift = {key[2]: shift for key, shift in shifts.items() if key[0] == "drift"}
    assert (drift[COMMON.text].value, drift[COMMON.text].limit) == (pytest.approx(0.25), 0.2)
    assert len(shifts) == 3 * 7
    assert {key[0] for key in shifts} == {"skew", "drift"}
    without = measure_shifts(protos, None, COMMON, 0.3, 0.2)
    assert {shift.check for shift in without} == {"skew"}


def test_counts_of_a_split_without_objects(tmp_path):
    path = write(tmp_path / "data.gz", [record("a"), record("b")])
    assert gate.count_objects(statistics(path)) == {
        "pictures": 2,
        "objects": 0,
        "objects_per_class": {},
    }


def run_gate(folder, splits, schema_path, fields=COMMON, baseline=None, **config):
    """Runs the gate on records by split; returns (report artifact, its content, examples)."""
    schema = read_schema(schema_path)
    artifacts = {
        "examples": standard_artifacts.Examples(),
        "statistics": standard_artifacts.ExampleStatistics(),
        "anomalies": standard_artifacts.ExampleAnomalies(),
        "report": DataGateReport(),
    }
    for name, artifact in artifacts.items():
        artifact.uri = str(folder / name)
        if name != "report":
            artifact.split_names = artifact_utils.encode_split_names(list(splits))
    for split, records in splits.items():
        proto = statistics(
            write(folder / "examples" / f"Split-{split}" / "data.gz", records), fields
        )
        for name, file, content in (
            ("statistics", "FeatureStats.pb", proto),
            ("anomalies", "SchemaDiff.pb", tfdv.validate_statistics(proto, schema)),
        ):
            path = folder / name / f"Split-{split}" / file
            path.parent.mkdir(parents=True)
            path.write_bytes(content.SerializeToString())
    settings = vars(DataGateConfig(**{"min_pictures": 1, **config}))
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        component.DataGate.test_call(
            **artifacts,
            baseline=baseline,
            config=json.dumps(settings),
            fields=json.dumps(vars(fields)),
            classes=json.dumps(class_names(schema)),
            detector="ssd128-small",
            anchors="paper",
            matching_iou=0.5,
            presets=json.dumps({"fine": ("ssd300-lite0", "paper")}),
            beam_pipeline=pipeline,
        )
    report = json.loads((folder / "report" / DATA_GATE_FILE).read_text())
    return artifacts["report"], report, artifacts["examples"]


def every_class(prefix):
    return [record(f"{prefix}{name}", [(name, BOX)]) for name in CLASSES]


def test_the_components_pass_clean_data(tmp_path):
    splits = {"train": every_class("t"), "test": every_class("e")}
    artifact, report, _ = run_gate(tmp_path, splits, SAMPLE_SCHEMA)
    counts = {
        "pictures": 6,
        "objects": 6,
        "objects_per_class": dict.fromkeys(CLASSES, 1),
        "unmatchable_objects": 0,
    }
    assert report["splits"] == {"train": counts, "test": counts}
    assert report["anomalies"] == report["findings"] == report["leaks"] == []
    assert {shift["check"] for shift in report["shifts"]} == {"skew"}
    assert report["excluded_records"] == []
    component.DataVerdict.test_call(report=artifact)


def test_only_the_training_copies_are_left_out(tmp_path):
    examples, report, kept = (
        kind()
        for kind in (standard_artifacts.Examples, DataGateReport, standard_artifacts.Examples)
    )
    examples.uri, report.uri, kept.uri = (
        str(tmp_path / name) for name in ("all", "report", "kept")
    )
    examples.split_names = artifact_utils.encode_split_names(["train", "eval", "test"])
    records = [record("a"), record("b"), record("c")]
    for split in ("train", "eval", "test"):
        write(tmp_path / "all" / f"Split-{split}" / "data.gz", records)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / DATA_GATE_FILE).write_text('{"excluded_records": ["b"]}')
    DropLeaks.test_call(examples=examples, report=report, kept=kept, id_feature=COMMON.source_id)
    found = {
        folder.name: list(
            tf.data.TFRecordDataset(str(folder / "data.gz"), "GZIP").as_numpy_iterator()
        )
        for folder in (tmp_path / "kept").iterdir()
    }
    # Ids are of one split.
    assert found == {"Split-train": records[::2], "Split-eval": records}
    assert artifact_utils.decode_split_names(kept.split_names) == ["train", "eval"]


@pytest.mark.slow
def test_the_components_stop_at_a_leak_or_drop_the_training_copy(tmp_path):
    splits = {
        "train": [*every_class("t"), record("copy", [("star", BOX)], jpeg(5, quality=50))],
        # Ids are per split: this is not the training record that is left out.
        "eval": [record("copy", [("star", BOX)], jpeg(6))],
        "test": [*every_class("e"), record("original", [("star", BOX)], jpeg(5))],
    }
    artifact, report, _ = run_gate(tmp_path / "block", splits, SAMPLE_SCHEMA)
    with pytest.raises(DataError, match="test original and train copy: the same look"):
        component.DataVerdict.test_call(report=artifact)
    assert report["excluded_records"] == []
    artifact, report, examples = run_gate(
        tmp_path / "drop", splits, SAMPLE_SCHEMA, on_leak="drop_train"
    )
    component.DataVerdict.test_call(report=artifact)
    assert report["excluded_records"] == ["copy"]
    kept = standard_artifacts.Examples()
    kept.uri = str(tmp_path / "kept")
    DropLeaks.test_call(
        examples=examples,
        report=artifact,
        kept=kept,
        id_feature=COMMON.source_id,
    )
    assert artifact_utils.decode_split_names(kept.split_names) == ["train", "eval"]
    for split, wanted in (("train", splits["train"][:-1]), ("eval", splits["eval"])):
        (shard,) = (tmp_path / "kept" / f"Split-{split}").iterdir()
        found = tf.data.TFRecordDataset(str(shard), "GZIP").as_numpy_iterator()
        assert list(found) == wanted


def test_the_component_stops_at_an_anomaly_in_records_of_hikapok(tmp_path):
    splits = {
        "train": [record("a.jpg", [("cat", BOX)], fields=HIKAPOK)],
        "eval": [record("b.jpg", [("zebra", BOX)], fields=HIKAPOK)],
    }
    artifact, report, _ = run_gate(tmp_path, splits, VOC_HIKAPOK_SCHEMA, HIKAPOK)
    assert any("zebra" in anomaly["problem"] for anomaly in report["anomalies"])
    with pytest.raises(DataError, match=f"eval: {HIKAPOK.text}: .*zebra"):
        component.DataVerdict.test_call(report=artifact)


def test_drift_against_an_earlier_data_set(tmp_path):
    baseline = standard_artifacts.ExampleStatistics()
    baseline.uri = str(tmp_path / "earlier")
    folder = tmp_path / "earlier" / "Split-train"
    folder.mkdir(parents=True)
    proto = statistics(write(tmp_path / "earlier.gz", many(10)))
    (folder / "FeatureStats.pb").write_bytes(proto.SerializeToString())
    splits = {"train": every_class("t"), "test": every_class("e")}
    artifact, report, _ = run_gate(
        tmp_path / "run", splits, SAMPLE_SCHEMA, baseline=baseline, block_on=("drift",)
    )
    with pytest.raises(DataError, match=f"{COMMON.text} of train and the latest blessed model's"):
        component.DataVerdict.test_call(report=artifact)

"""An evaluation with a baseline, and everything a report needs, from replayed detections."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from PIL import Image
from tensorflow_metadata.proto.v0 import statistics_pb2
from tensorflow_model_analysis.proto import config_pb2

from components.artifacts import SERVING_CHECK_FILE
from components.detection_report.report import Sources
from components.evaluator.answers import answers_kept_in, read_answers
from components.mean_average_precision import metric_names, picture_slices, tfma_metric
from components.model_card.card import write_model_card
from components.model_card.facts import with_thresholds
from components.model_card.scores import gather_scores
from data.fields import COMMON
from tests.components import tfma_replay


@pytest.fixture(scope="session")
def replayed(tmp_path_factory):
    """A folder with `evaluation` and the models `candidate` and `baseline`; one bound is missed."""
    folder = tmp_path_factory.mktemp("replayed")
    models = {
        tfma.CANDIDATE_KEY: tfma_replay.save_model(folder / "candidate"),
        tfma.BASELINE_KEY: tfma_replay.save_model(folder / "baseline", tfma_replay.WEAK),
    }
    least = config_pb2.GenericValueThreshold(lower_bound={"value": 0.2})
    too_much = config_pb2.GenericValueThreshold(lower_bound={"value": 0.99})
    change = config_pb2.GenericChangeThreshold(
        direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -0.01}
    )
    config = tfma_replay.eval_config(
        tfma_metric.metric_config(tfma_replay.CLASSES, COMMON),
        {
            metric_names.MAP: config_pb2.MetricThreshold(value_threshold=least),
            metric_names.SIGNIFICANT: config_pb2.MetricThreshold(change_threshold=change),
            metric_names.ap_name("cat"): config_pb2.MetricThreshold(value_threshold=too_much),
            metric_names.ap_name("ghost"): config_pb2.MetricThreshold(value_threshold=least),
        },
        baseline=True,
        slices=["size"],
    )
    with answers_kept_in(str(folder / "evaluation")):
        tfma_replay.run(folder, models, config, extractors=picture_slices.custom_extractors)
    return folder


@pytest.fixture(scope="session")
def model_facts(replayed):
    """Facts as from `gather_facts`, with the replayed evaluation's scores."""
    classes = list(tfma_replay.CLASSES)
    split = {"pictures": 24, "objects": 48, "objects_per_class": {"cat": 20, "dog": 28}}
    return {
        "blessed": False,
        "evaluation": with_thresholds(
            gather_scores(str(replayed / "evaluation")),
            read_answers(str(replayed / "evaluation"), classes),
        ),
        "model": {
            "preset": "replay",
            "trainer": {
                "detector": "none",
                "anchors": "paper",
                "backbone_weights": "none",
                "steps": 10,
                "batch_size": 2,
            },
            "code_version": "c0de",
            "data": {"train_records": 24, "train_fingerprint": "f1"},
            "image_size": 64,
            "anchors_hash": "abcd",
            "classes": classes,
            "base_model": None,
            "starting_weights_sha256": "0123456789abcdef",
            "exported": {"step": 8, "eval_map": 0.4321},
        },
        "origin": {"name": "pets", "left_out": "2 of 50 pictures: the picture is damaged (2)"},
        "training": {"losses": {"total": 1.5}, "checkpoint": "checkpoints/step-00000010.npz"},
        "data": {
            "splits": {"train": split, "test": split},
            "anomalies": [],
            "leakage": [{"split": "train", "record": "a<b>", "same_as": "test/7"}],
        },
        "fingerprints": {"train": "f1", "test": "f2"},
        "packages": {"tfx": "1.16.0"},
    }


@pytest.fixture(scope="session")
def report_sources(replayed, model_facts, tmp_path_factory):
    """Everything the report reads, as left by a run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "card").mkdir()
    write_model_card(model_facts, folder / "card")
    write_records(folder / "Split-test")
    for split in ("train", "test"):
        write_statistics(folder / "statistics" / f"Split-{split}")
    (folder / "infra_blessing").mkdir()
    measured = {"problems": [], "pictures": 8, "equal": 8}
    measured |= {"p50_ms": 21, "p99_ms": 34, "memory_mb": 611}
    (folder / "infra_blessing" / SERVING_CHECK_FILE).write_text(json.dumps(measured))
    with tf.summary.create_file_writer(str(folder / "model_run" / "logs")).as_default():
        for step in (1, 5, 10):
            tf.summary.scalar("loss/total", 10.0 / step, step)
            tf.summary.scalar("learning_rate", 0.1, step)
    return Sources(
        card=str(folder / "card"),
        evaluation=str(replayed / "evaluation"),
        model_run=str(folder / "model_run"),
        examples=str(folder / "Split-test"),
        statistics=str(folder / "statistics"),
        infra_blessing=str(folder / "infra_blessing"),
        pushed="/models/ssd/17",
        artifacts={"Model 3": "/runs/model/3"},
    )


def write_records(folder):
    """Writes the replayed pictures as GZIP shards, with JPEGs in which objects are patches."""
    folder.mkdir()
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    for shard in range(2):
        path = folder / f"data_tfrecord-{shard:05}-of-00002.gz"
        with tf.io.TFRecordWriter(str(path), options) as writer:
            half = len(tfma_replay.PICTURES) // 2
            for picture in tfma_replay.PICTURES[shard * half : (shard + 1) * half]:
                example = tf.train.Example.FromString(tfma_replay.example(picture, COMMON))
                feature = example.features.feature
                feature[COMMON.encoded].bytes_list.value.append(_jpeg(picture[1]))
                for name in (COMMON.ymin, COMMON.xmin, COMMON.ymax, COMMON.xmax, COMMON.text):
                    feature[name].SetInParent()
                writer.write(example.SerializeToString())


def _jpeg(boxes):
    height, width = 2 * tfma_replay.HEIGHT, 2 * tfma_replay.WIDTH
    pixels = np.full((height, width, 3), 60, np.uint8)
    for ymin, xmin, ymax, xmax in boxes:
        rows = slice(int(ymin * height), int(ymax * height))
        pixels[rows, int(xmin * width) : int(xmax * width)] = (200, 180, 40)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_statistics(folder):
    """Writes TFDV statistics with one numeric and one other feature."""
    folder.mkdir(parents=True)
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = statistics.datasets.add(num_examples=24)
    height = dataset.features.add(type=statistics_pb2.FeatureNameStatistics.INT)
    height.path.step.append("image/height")
    height.num_stats.min, height.num_stats.mean, height.num_stats.max = 100, 120.5, 140
    text = dataset.features.add(name="text", type=statistics_pb2.FeatureNameStatistics.STRING)
    text.string_stats.unique = 3
    (folder / "FeatureStats.pb").write_bytes(statistics.SerializeToString())


@pytest.fixture(scope="session")
def plain(model_facts):
    """Returns a deep copy of the facts to modify."""
    return lambda: json.loads(json.dumps(model_facts))

"""Data components give the same results in this process and on two worker processes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
from tfx.orchestration import metadata
from tfx.orchestration.pipeline import RunOptions

from data.beam_runner import IN_PROCESS, beam_arguments
from data.convert import convert
from data.options import ConversionOptions
from data.sample import SPLIT_LISTS, draw_sample
from data.schema import SAMPLE_SCHEMA, class_names, read_schema
from pipeline import inputs
from pipeline.config import load_config
from pipeline.pipeline import create_pipeline
from pipeline.progress import run_with_progress
from trainer.input_pipeline import TransformedRecords

pytestmark = pytest.mark.e2e

_SPLITS = ("train", "eval", "test")
_PICTURES = 22
_CONFIG = load_config("sample")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Outputs of the components up to Transform, in this process and on two workers."""
    folder = tmp_path_factory.mktemp("beam")
    draw_sample(folder / "voc", images=_PICTURES)
    classes = class_names(read_schema(SAMPLE_SCHEMA))
    convert(folder / "voc", folder / "records", ConversionOptions(classes=classes, **SPLIT_LISTS))
    return [
        _run(folder, "one", IN_PROCESS),
        _run(folder, "two", beam_arguments("multiprocess", ["--direct_num_workers=2"])),
    ]


def _run(folder, name, beam_args) -> dict[str, dict[str, list]]:
    store = metadata.sqlite_metadata_connection_config(str(folder / f"{name}.sqlite"))
    pipeline = create_pipeline(
        _CONFIG,
        inputs.prepare(_CONFIG, folder / "records", folder),
        name=name,
        root=str(folder / name),
        serving_dir="",
        work_dir="",
        metadata_connection_config=store,
        beam_args=beam_args,
    )
    options = RunOptions(to_nodes=["Transform"])
    return run_with_progress(pipeline, options, run=name, output=folder, known={})


def _folder(outputs, component, key) -> Path:
    (artifact,) = outputs[component][key]
    return Path(artifact.uri)


def _records(outputs, split) -> Iterator[bytes]:
    shards = sorted(_folder(outputs, "ImportExampleGen", "examples").glob(f"Split-{split}/*"))
    return tf.data.TFRecordDataset(list(map(str, shards)), "GZIP").as_numpy_iterator()


@pytest.mark.parametrize("split", _SPLITS)
def test_records_are_equal(found, split):
    one, two = (list(_records(outputs, split)) for outputs in found)
    assert one == two
    assert len(one) == {"train": 16, "eval": 2, "test": 4}[split]


@pytest.mark.parametrize("split", _SPLITS)
def test_statistics_are_equal_up_to_the_order_of_sums(found, split):
    one, two = (
        tfdv.load_stats_binary(
            f"{_folder(outputs, 'StatisticsGen', 'statistics')}/Split-{split}/FeatureStats.pb"
        )
        for outputs in found
    )
    for statistics in (one, two):
        for feature in statistics.datasets[0].features:
            # The last digits of float sums depend on the order.
            feature.num_stats.mean = float(f"{feature.num_stats.mean:.12g}")
            feature.num_stats.std_dev = float(f"{feature.num_stats.std_dev:.12g}")
    assert one.datasets[0].num_examples == {"train": 16, "eval": 2, "test": 4}[split]
    assert _by_name(one) == _by_name(two)


def _by_name(statistics):
    return {
        feature.path.step[0]: feature.SerializeToString(deterministic=True)
        for feature in statistics.datasets[0].features
    }


def test_gate_reports_are_equal(found):
    one, two = (
        json.loads((_folder(outputs, "DataGate", "report") / "data_gate.json").read_text())
        for outputs in found
    )
    assert one == two
    assert one["splits"]["train"]["pictures"] == 16


def test_transform_graphs_are_equivalent(found):
    raw = tf.constant(list(_records(found[0], "train")))
    one, two = (
        TransformedRecords(
            tft.TFTransformOutput(str(_folder(outputs, "Transform", "transform_graph")))
        )(raw)
        for outputs in found
    )
    assert set(one) == set(two)
    assert np.count_nonzero(one["labels"]) > 16
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)

"""Spans and versions of the data, up to what TFX reads and records."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from tfx.orchestration import metadata
from tfx.orchestration.pipeline import RunOptions

from data.errors import DataError
from data.fields import COMMON
from pipeline import inputs
from pipeline.config import load_config
from pipeline.pipeline import create_pipeline
from pipeline.progress import run_with_progress
from pipeline.spans import find_spans

_VOC = load_config("ssd300-voc")
_SPLITS = ("train", "eval", "test")
_SPANS = Path("span-{SPAN}", "version-{VERSION}")


def _write_records(folder):
    """Writes one record per split, of a picture with the folder's name."""
    for split in _SPLITS:
        (folder / split).mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / split / "a.tfrecord.gz"), "GZIP") as writer:
            writer.write(_record(folder.name))


def _record(name):
    names = [name for name in dataclasses.astuple(COMMON) if name]
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()]))
    features = tf.train.Features(feature=dict.fromkeys(names, feature))
    return tf.train.Example(features=features).SerializeToString(deterministic=True)


@pytest.fixture
def spans(tmp_path):
    """A folder with an old span and two versions of a new one."""
    for name in ("span-9/version-3", "span-10/version-1", "span-10/version-2"):
        _write_records(tmp_path / "records" / name)
    # A conversion in progress.
    _write_records(tmp_path / "records" / "span-10" / ".version-3.77.partial")
    return tmp_path / "records"


def test_the_newest_span_is_inspected_but_chosen_by_tfx(spans, tmp_path):
    found = inputs.prepare(_VOC, spans / _SPANS, tmp_path)
    assert (found.records, found.fields) == (spans, COMMON)
    assert found.patterns == {split: f"{_SPANS}/{split}/*" for split in _SPLITS}
    assert find_spans(spans / _SPANS).newest == spans / "span-10" / "version-2"
    # Without a version the whole span is read. Spans are ordered as numbers, not as text.
    assert find_spans(spans / "span-{SPAN}" / "version-1").newest.parent.name == "span-10"


def test_dates_are_spans(tmp_path):
    for day in ("2023-12-31", "2024-01-02"):
        _write_records(tmp_path / day)
    assert find_spans(tmp_path / "{YYYY}-{MM}-{DD}").newest.name == "2024-01-02"


def test_a_folder_that_exists_is_no_pattern(tmp_path):
    (tmp_path / "set{1}").mkdir()
    assert find_spans(tmp_path / "set{1}") is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("week-{SPAN}", "Cannot find matching"),
        ("span-{SPAN}/{SPAN}", "Only one {SPAN}"),
        ("span-9/version-{VERSION}", "Version spec provided"),
        ("{SPAN}/version-3", "Cannot find span number"),
        ("span-{SPAM}", "no such folder"),
    ],
)
def test_wrong_span_patterns_are_reported(spans, tmp_path, pattern, message):
    with pytest.raises(DataError, match=f"(?s){message}"):
        inputs.prepare(_VOC, spans / pattern, tmp_path)


def test_the_newest_span_needs_all_splits(spans, tmp_path):
    shutil.rmtree(spans / "span-10" / "version-2" / "test")
    with pytest.raises(DataError, match="version-2: no TFRecords for the split 'test'"):
        inputs.prepare(_VOC, spans / _SPANS, tmp_path)


def _span(examples):
    return tuple(examples.get_int_custom_property(name) for name in ("span", "version"))


@pytest.fixture
def read_examples(spans, tmp_path):
    """Runs the pipeline's ImportExampleGen; returns its artifact and its test record."""

    numbers = itertools.count()

    def read_examples():
        config = load_config("sample", ["data.schema=infer"])
        store = metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.sqlite"))
        pipeline = create_pipeline(
            config,
            inputs.prepare(config, spans / _SPANS, tmp_path),
            name="spans",
            root=str(tmp_path / "pipeline"),
            serving_dir="",
            work_dir="",
            metadata_connection_config=store,
        )
        outputs = run_with_progress(
            pipeline,
            RunOptions(to_nodes=["ImportExampleGen"]),
            run=f"run-{next(numbers)}",
            output=tmp_path,
            known={},
        )
        (examples,) = outputs["ImportExampleGen"]["examples"]
        shards = [str(path) for path in Path(examples.uri).glob("Split-test/*")]
        (record,) = tf.data.TFRecordDataset(shards, "GZIP").as_numpy_iterator()
        return examples, tf.train.Example.FromString(record)

    return read_examples


def test_each_run_reads_the_newest_span(spans, read_examples):
    first, record = read_examples()
    assert _span(first) == (10, 2)
    assert record == tf.train.Example.FromString(_record("version-2"))
    assert read_examples()[0].id == first.id
    _write_records(spans / "span-11" / "version-1")
    second, record = read_examples()
    assert _span(second) == (11, 1)
    assert record == tf.train.Example.FromString(_record("version-1"))
    assert second.id != first.id

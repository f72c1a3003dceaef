import dataclasses
import re

import pytest
import tensorflow as tf

from data.errors import DataError
from data.fields import COMMON, HIKAPOK
from data.record_folder import open_record_folder

_SPLITS = ("train", "eval", "test")


def _record(fields) -> bytes:
    """A record of one picture with one object; only the field names matter here."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))
    names = [name for name in dataclasses.astuple(fields) if name]
    features = tf.train.Features(feature=dict.fromkeys(names, feature))
    return tf.train.Example(features=features).SerializeToString()


def _write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for record in records:
            writer.write(record)


@pytest.fixture
def folder(tmp_path):
    """All splits as subfolders, gzipped, two shards each."""
    for split in _SPLITS:
        for shard in ("00000-of-00002", "00001-of-00002"):
            _write(tmp_path / split / f"{shard}.tfrecord.gz", [_record(COMMON)])
    return tmp_path


def test_splits_as_subfolders(folder):
    found = open_record_folder(folder)
    assert found.path == folder
    assert found.patterns == {"train": "train/*", "eval": "eval/*", "test": "test/*"}
    assert found.fields == COMMON


@pytest.mark.parametrize("fields", [COMMON, HIKAPOK])
def test_splits_as_files_in_one_folder(tmp_path, fields):
    for split in _SPLITS:
        _write(tmp_path / f"{split}-00000-of-00001", [_record(fields)])
    found = open_record_folder(tmp_path)
    assert found.patterns == {"train": "train-*", "eval": "eval-*", "test": "test-*"}
    assert found.fields == fields


def test_layouts_may_be_mixed(folder):
    for path in (folder / "eval").iterdir():
        path.unlink()
    (folder / "eval").rmdir()
    _write(folder / "eval-0.gz", [_record(COMMON)])
    assert open_record_folder(folder).patterns["eval"] == "eval-*"


@pytest.mark.parametrize("split", _SPLITS)
def test_a_missing_split_is_named_with_what_was_found(folder, split):
    (folder / split).rename(folder / "other")
    with pytest.raises(DataError, match=f"no TFRecords for the split '{split}'") as caught:
        open_record_folder(folder)
    assert "other" in str(caught.value)
    assert "ssd convert" in str(caught.value)


def test_an_empty_split_folder_counts_as_missing(folder):
    for path in (folder / "test").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no TFRecords for the split 'test'"):
        open_record_folder(folder)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no TFRecords") + ".*nothing"):
        open_record_folder(tmp_path)


def test_a_long_listing_is_cut(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02d}.jpg").touch()
    with pytest.raises(DataError, match=r"00\.jpg, .*07\.jpg \.\.\.\."):
        open_record_folder(tmp_path)


def test_shards_without_a_record(folder):
    for path in (folder / "eval").iterdir():
        _write(path, [])
    with pytest.raises(DataError, match=re.escape(f"{folder / 'eval'}: the TFRecords hold no")):
        open_record_folder(folder)


def test_an_empty_first_shard_is_skipped(folder):
    _write(folder / "train" / "00000-of-00002.tfrecord.gz", [])
    assert open_record_folder(folder).fields == COMMON


@pytest.mark.parametrize("name", ["train-a.gz", "train-a", "train-a.tfrecord"])
@pytest.mark.parametrize("content", [b"an ordinary text, long enough for a header", b"\x00" * 40])
def test_a_file_that_is_not_tfrecord_is_named(tmp_path, name, content):
    for split in ("eval", "test"):
        _write(tmp_path / f"{split}-a", [_record(COMMON)])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / name)) + ": .*TFRecord"):
        open_record_folder(tmp_path)


@pytest.mark.parametrize("record", [b"\xff\xff\xff not an example", b"plain text"])
def test_records_that_are_not_examples_are_named(folder, record):
    path = folder / "train" / "00000-of-00002.tfrecord.gz"
    _write(path, [record])
    with pytest.raises(DataError, match=re.escape(str(path)) + ": .*not tf.Examples"):
        open_record_folder(folder)


def test_other_records_are_refused_with_their_fields(folder):
    feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
    other = tf.train.Example(features=tf.train.Features(feature={"age": feature}))
    path = folder / "test" / "00000-of-00002.tfrecord.gz"
    _write(path, [other.SerializeToString()])
    with pytest.raises(DataError, match="not annotated pictures. Fields found: age") as caught:
        open_record_folder(folder)
    assert str(caught.value).startswith(str(path))


def test_splits_must_name_their_fields_alike(folder):
    for path in (folder / "test").iterdir():
        _write(path, [_record(HIKAPOK)])
    with pytest.raises(DataError, match="splits name their fields differently"):
        open_record_folder(folder)

"""Shards become examples: the same records in the same order, complete or not at all."""

import gzip
import json

import pytest
import tensorflow as tf
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.example_gen import Executor, copy_shard
from data.beam_runner import IN_PROCESS
from data.errors import DataError, find_data_error

_RECORDS = [b"one", b"", b"three" * 1000]


def _write(path, records, compression="GZIP"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)


def _read(path):
    return list(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator())


def _import(folder, output, payload=example_gen_pb2.FORMAT_TF_EXAMPLE, **splits):
    """Runs the executor with a pattern per split; returns the artifact."""
    config = example_gen_pb2.Input(
        splits=[
            example_gen_pb2.Input.Split(name=name, pattern=pattern)
            for name, pattern in splits.items()
        ]
    )
    examples = standard_artifacts.Examples()
    examples.uri = str(output)
    Executor(BaseBeamExecutor.Context(beam_pipeline_args=list(IN_PROCESS))).Do(
        {},
        {"examples": [examples]},
        {
            "input_base": str(folder),
            "input_config": proto_utils.proto_to_json(config),
            "output_data_format": payload,
        },
    )
    return examples


def test_shards_are_copied_in_their_order(tmp_path):
    for number, records in enumerate((_RECORDS, [b"b"], [])):
        _write(tmp_path / "records" / "train" / f"{number}.tfrecord.gz", records)
    _write(tmp_path / "records" / "test" / "plain.tfrecord", [b"c"], compression=None)
    output = tmp_path / "examples"
    kind = example_gen_pb2.FORMAT_TF_SEQUENCE_EXAMPLE
    examples = _import(tmp_path / "records", output, kind, train="train/*", test="test/*")
    assert examples.split_names == '["train", "test"]'
    assert examples.get_string_custom_property("payload_format") == "FORMAT_TF_SEQUENCE_EXAMPLE"
    train = sorted((output / "Split-train").iterdir())
    assert [path.name for path in train] == [
        f"data_tfrecord-{number:05d}-of-00003.gz" for number in range(3)
    ]
    assert [_read(path) for path in train] == [_RECORDS, [b"b"], []]
    (test,) = (output / "Split-test").iterdir()
    assert _read(test) == [b"c"]


def test_the_records_origin_is_copied(tmp_path):
    for span in (1, 2):
        _write(tmp_path / f"pets/span-{span}/train/a.gz", _RECORDS)
    report = {"data_set": "dogs", "rejected": 1, "pictures": 20, "left_out": {"damaged": 1}}
    (tmp_path / "pets/span-2/report.json").write_text(json.dumps(report))
    _write(tmp_path / "pets/span-2/train-0.gz", _RECORDS)
    damaged = "1 of 20 pictures: the picture is damaged (1)"
    for pattern, name, left_out in (
        ("span-1/train/*", "span-1", ""),
        ("span-2/train/*", "dogs", damaged),
        ("span-2/train-*", "dogs", damaged),
    ):
        output = tmp_path / pattern.replace("*", "examples").replace("/", "_")
        _import(tmp_path / "pets", output, train=pattern)
        origin = json.loads((output / "origin.json").read_text())
        assert origin == {"name": name, "left_out": left_out}


@pytest.mark.parametrize("compression", ["GZIP", None])
@pytest.mark.parametrize("kind", ["cut off", "changed"])
def test_a_damaged_shard_is_named_and_leaves_nothing(tmp_path, compression, kind):
    shard = tmp_path / ("a.tfrecord.gz" if compression else "a.tfrecord")
    _write(shard, _RECORDS, compression)
    data = gzip.decompress(shard.read_bytes()) if compression else shard.read_bytes()
    data = data[:-5] if kind == "cut off" else data[:-100] + b"?" + data[-99:]
    shard.write_bytes(gzip.compress(data) if compression else data)
    with pytest.raises(DataError, match=f"{shard}: damaged after 2 records .*convert the data"):
        copy_shard(str(shard), str(tmp_path / "out.gz"))
    assert list(tmp_path.iterdir()) == [shard]


@pytest.mark.parametrize(("name", "compression"), [("a.gz", "GZIP"), ("a.tfrecord", None)])
def test_a_copy_has_its_name_when_it_is_whole(tmp_path, monkeypatch, name, compression):
    _write(tmp_path / name, _RECORDS, compression)
    seen = []
    rename = tf.io.gfile.rename

    def look(source, target, overwrite):
        seen.append(((tmp_path / "out.gz").exists(), _read(source)))
        rename(source, target, overwrite)

    monkeypatch.setattr(tf.io.gfile, "rename", look)
    copy_shard(str(tmp_path / name), str(tmp_path / "out.gz"))
    assert seen == [(False, _RECORDS)]
    assert _read(tmp_path / "out.gz") == _RECORDS


def test_a_plain_file_may_start_like_gzip(tmp_path):
    shard = tmp_path / "a.tfrecord"
    records = [b"x" * 0x8B1F]
    _write(shard, records, compression=None)
    assert shard.read_bytes()[:2] == b"\x1f\x8b"
    copy_shard(str(shard), str(tmp_path / "out.gz"))
    assert _read(tmp_path / "out.gz") == records


def test_a_split_without_files_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none/\*: no TFRecord files"):
        _import(tmp_path, tmp_path / "examples", train="none/*")


def test_damage_is_found_behind_beams_errors(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.gz").write_bytes(b"not a record")
    with pytest.raises(Exception) as caught:
        _import(tmp_path, tmp_path / "examples", train="train/*")
    assert "a.gz: damaged after 0 records" in str(find_data_error(caught.value))

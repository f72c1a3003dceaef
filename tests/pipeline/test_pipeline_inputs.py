import dataclasses
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf
from google.protobuf import text_format

from data import sources
from data.errors import DataError
from data.fields import COMMON, HIKAPOK
from data.options import ConversionOptions
from data.schema import (
    SAMPLE_SCHEMA,
    VOC_HIKAPOK_SCHEMA,
    VOC_SCHEMA,
    class_names,
    make_schema,
    read_schema,
)
from pipeline import inputs
from pipeline.code_version import code_version
from pipeline.config import load_config

_VOC = load_config("ssd300-voc")
_SAMPLE = load_config("sample")


def _write_records(folder, fields=COMMON):
    """Writes one record per split; only the names of its fields matter here."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))
    names = [name for name in dataclasses.astuple(fields) if name]
    features = tf.train.Features(feature=dict.fromkeys(names, feature))
    record = tf.train.Example(features=features).SerializeToString()
    for split in ("train", "eval", "test"):
        (folder / split).mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / split / "a.tfrecord.gz"), "GZIP") as writer:
            writer.write(record)
    return folder


@pytest.fixture
def conversions(monkeypatch):
    """Replaces the conversion; returns the list of its calls' arguments."""
    calls = []

    def convert(voc_root, output, options, **_):
        calls.append(SimpleNamespace(voc_root=voc_root, options=options))
        _write_records(output)
        schema = make_schema(options.classes or ("found",), with_crowds=False)
        (output / "schema.pbtxt").write_text(text_format.MessageToString(schema))
        notes = ("warning: only 3 pictures for eval: raise --eval-fraction 0.02",)
        return SimpleNamespace(notes=notes, lines=lambda: ["train: 9"], left_out={"damaged": 1})

    monkeypatch.setattr(sources, "convert", convert)
    return calls


@pytest.fixture
def voc_root(tmp_path) -> Path:
    """A VOCdevkit with one picture."""
    year = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (year / folder).mkdir(parents=True)
    (year / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n")
    (year / "JPEGImages" / "000001.jpg").write_bytes(b"jpeg")
    (year / "Annotations" / "000001.xml").write_text("<annotation/>")
    return year.parent


@pytest.mark.parametrize(
    ("fields", "schema"),
    [(COMMON, VOC_SCHEMA), (HIKAPOK, VOC_HIKAPOK_SCHEMA)],
    ids=["common", "hikapok"],
)
def test_a_folder_of_records_is_used_directly(tmp_path, fields, schema):
    records = _write_records(tmp_path / "records", fields)
    found = inputs.prepare(_VOC, records, tmp_path / "output")
    assert (found.records, found.fields, found.schema_path) == (records, fields, schema)
    assert found.patterns == {"train": "train/*", "eval": "eval/*", "test": "test/*"}
    assert found.classes == class_names(read_schema(schema))
    assert not (tmp_path / "output").exists()


def test_the_schema_of_the_configuration_is_used(tmp_path, monkeypatch):
    records = _write_records(tmp_path / "records")
    assert inputs.prepare(_SAMPLE, records, tmp_path).schema_path == SAMPLE_SCHEMA
    own = tmp_path / "own.pbtxt"
    own.write_text(SAMPLE_SCHEMA.read_text().replace('"ring"', '"rung"'))
    monkeypatch.chdir(tmp_path)
    for name in (own, own.name):
        found = inputs.prepare(load_config("sample", [f"data.schema={name}"]), records, tmp_path)
        assert "rung" in found.classes and found.schema_path == own
    config = load_config("sample", ["data.schema=infer"])
    found = inputs.prepare(config, records, tmp_path)
    assert (found.schema_path, found.classes) == (None, ())


def test_a_missing_schema_is_reported(tmp_path):
    records = _write_records(tmp_path / "records")
    config = load_config("sample", [f"data.schema={tmp_path}/none.pbtxt"])
    with pytest.raises(DataError, match="none.pbtxt"):
        inputs.prepare(config, records, tmp_path)


@pytest.mark.parametrize("above", [False, True])
def test_a_voc_root_is_converted_once(voc_root, conversions, tmp_path, above):
    root = voc_root.parent if above else voc_root
    output = tmp_path / "output"
    first = inputs.prepare(_VOC, root, output)
    assert inputs.prepare(_VOC, root, output).records == first.records
    (call,) = conversions
    assert call.voc_root == root
    assert call.options == ConversionOptions()
    assert first.classes == ("found",)
    assert first.records.parent == output / "records"
    assert first.picture.name == "000001.jpg"


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("folder", ["ImageSets/Main/trainval.txt", "Annotations/000001.xml"])
def test_a_changed_voc_root_is_converted_again(voc_root, conversions, tmp_path, folder, linked):
    root = voc_root
    if linked:
        # Large data sets are often on another disk.
        root = tmp_path / "linked"
        root.mkdir()
        (root / "VOC2007").symlink_to(voc_root / "VOC2007")
    output = tmp_path / "output"
    first = inputs.prepare(_VOC, root, output)
    path = voc_root / "VOC2007" / folder
    path.write_text(path.read_text() + "\n")
    second = inputs.prepare(_VOC, root, output)
    assert first.records != second.records
    os.utime(path, ns=(0, 0))
    assert inputs.prepare(_VOC, root, output).records not in (first.records, second.records)
    assert len(conversions) == 3


def test_converted_records_depend_on_the_converter_not_on_the_datas_path(
    voc_root, conversions, tmp_path, monkeypatch
):
    output = tmp_path / "output"
    first = inputs.prepare(_VOC, voc_root, output).records
    moved = voc_root.rename(tmp_path / "moved")
    assert inputs.prepare(_VOC, moved, output).records == first
    # Files from an archive may have the same time but another size.
    path = moved / "VOC2007" / "Annotations" / "000001.xml"
    times = path.stat()
    path.write_text("<annotation></annotation>")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = inputs.prepare(_VOC, moved, output).records
    monkeypatch.setattr(inputs, "code_version", "code of {}".format)
    third = inputs.prepare(_VOC, moved, output).records
    assert len({first, second, third}) == len(conversions) == 3


def test_other_classes_are_converted_separately(voc_root, conversions, tmp_path):
    voc, sample = (inputs.prepare(config, voc_root, tmp_path) for config in (_VOC, _SAMPLE))
    assert voc.records != sample.records
    assert [call.options.classes for call in conversions] == [(), sample.classes]
    config = load_config("ssd300-voc", ["data.classes=ant,bee", "data.pixels_from=0"])
    assert inputs.prepare(config, voc_root, tmp_path).classes == ("ant", "bee")
    assert conversions[-1].options == ConversionOptions(classes=("ant", "bee"), pixels_from=0)


def test_a_named_schema_wins_over_the_one_with_the_records(tmp_path):
    records = _write_records(tmp_path / "records")
    beside = records / "schema.pbtxt"
    beside.write_text(SAMPLE_SCHEMA.read_text().replace('"ring"', '"rung"'))
    for preset in ("ssd300-voc", "sample"):
        assert inputs.prepare(load_config(preset), records, tmp_path).schema_path == beside
    config = load_config("ssd300-voc", ["data.schema=voc"])
    assert inputs.prepare(config, records, tmp_path).schema_path == VOC_SCHEMA


def test_classes_come_from_a_schema_or_a_setting_but_not_both(voc_root, conversions, tmp_path):
    own = tmp_path / "own.pbtxt"
    own.write_text(SAMPLE_SCHEMA.read_text())
    config = load_config("ssd300-voc", [f"data.schema={own}"])
    assert "ring" in inputs.prepare(config, voc_root, tmp_path).classes
    assert "ring" in conversions[0].options.classes
    config = load_config("ssd300-voc", [f"data.schema={own}", "data.classes=auto"])
    with pytest.raises(DataError, match="both name the classes"):
        inputs.prepare(config, voc_root, tmp_path)


def test_conversion_errors_name_settings_instead_of_options(voc_root, tmp_path):
    with pytest.raises(DataError) as error:
        inputs.prepare(_VOC, voc_root, tmp_path / "output")
    assert "--set data.on_error=skip" in str(error.value)
    assert "--on-error" not in str(error.value)
    assert not list((tmp_path / "output").rglob("records/*"))


def test_conversion_notes_name_settings_instead_of_options(voc_root, conversions, tmp_path, caplog):
    caplog.set_level("INFO", "ssd")
    inputs.prepare(_VOC, voc_root, tmp_path / "output")
    assert "--set data.eval_fraction=0.02" in caplog.text
    *notes, counts, rejected = (record.message for record in caplog.records)
    assert all(len(note) <= 80 for note in notes)
    assert counts == "  train: 9"
    assert re.fullmatch("  see .*/output/records/[0-9a-f]+/rejected.jsonl", rejected)


def test_without_data_the_sample_is_drawn_once(conversions, monkeypatch, tmp_path):
    drawn = []

    def draw(root):
        drawn.append(root)
        lists = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("000001")

    monkeypatch.setattr(inputs, "draw_sample", draw)
    for _ in range(2):
        found = inputs.prepare(_SAMPLE, None, tmp_path)
    assert found.classes == class_names(read_schema(SAMPLE_SCHEMA))
    assert found.schema_path == SAMPLE_SCHEMA, "not the one of the conversion"
    assert drawn == [conversions[0].voc_root]
    assert drawn[0].name == "sample", "the data set's name"
    assert drawn[0].parent.name == code_version("data.sample"), "drawn again by other code"
    (call,) = conversions
    # The sample has its own eval list.
    assert (call.options.train, call.options.eval) == (("VOC2007/train",), ("VOC2007/val",))


@pytest.mark.parametrize("config", [_VOC, load_config("sample", ["data.schema=voc"])])
def test_other_schemas_need_data(tmp_path, config):
    with pytest.raises(DataError, match="--data is needed: a folder of annotated pictures or"):
        inputs.prepare(config, None, tmp_path)


def test_records_in_a_folder_with_wildcards_are_rejected(tmp_path):
    records = _write_records(tmp_path / "data [1]")
    with pytest.raises(DataError, match=r"data \[1\]: Beam and TFX read \[ in a path as a pattern"):
        inputs.prepare(_VOC, records, tmp_path)


def test_a_folder_of_one_year_is_converted(voc_root, conversions, tmp_path):
    inputs.prepare(_VOC, voc_root / "VOC2007", tmp_path)
    assert conversions[0].voc_root == voc_root / "VOC2007"


def test_missing_data_is_reported(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        inputs.prepare(_VOC, tmp_path / "nowhere", tmp_path)


def test_a_folder_without_records_or_annotations_is_rejected(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="pictures: no TFRecords for the split 'train'"):
        inputs.prepare(_VOC, tmp_path / "pictures", tmp_path)


def test_a_schema_is_inferred_only_from_records(voc_root, tmp_path):
    config = load_config("ssd300-voc", ["data.schema=infer"])
    with pytest.raises(DataError, match="inferred only from TFRecords"):
        inputs.prepare(config, voc_root, tmp_path)


def test_a_schemas_path_depends_on_its_content(tmp_path):
    schema = tmp_path / "own.pbtxt"
    schema.write_text("one")
    kept = inputs.keep_schema(schema, tmp_path / "output")
    assert inputs.keep_schema(schema, tmp_path / "output") == kept
    schema.write_text("two")
    other = inputs.keep_schema(schema, tmp_path / "output")
    assert (kept.read_text(), other.read_text()) == ("one", "two")
    assert [path.name for path in kept.parent.iterdir()] == ["own.pbtxt"]


def test_a_kept_schema_is_complete(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        inputs.keep_schema(SAMPLE_SCHEMA, tmp_path)
    assert not list(tmp_path.rglob(SAMPLE_SCHEMA.name))

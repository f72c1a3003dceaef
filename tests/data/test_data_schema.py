import dataclasses

import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_transform.tf_metadata import schema_utils

from data.errors import DataError
from data.fields import COMMON, HIKAPOK, detect
from data.jpeg import read_header
from data.record_builder import build_example
from data.schema import (
    SAMPLE_SCHEMA,
    VOC_HIKAPOK_SCHEMA,
    VOC_SCHEMA,
    class_names,
    make_schema,
    read_schema,
)
from data.shapes import OUTLINES
from data.voc import read_annotation

_OBJECT_FIELDS = ("ymin", "xmin", "ymax", "xmax", "text", "label", "difficult", "truncated")


def _names(fields):
    return {name for name in dataclasses.astuple(fields) if name}


def test_detects_both_kinds_of_records():
    assert detect(_names(COMMON)) is COMMON
    assert detect(_names(HIKAPOK) | {"image/channels"}) is HIKAPOK


def test_records_without_a_source_id_are_identified_by_filename():
    fields = detect(_names(COMMON) - {COMMON.source_id, COMMON.difficult})
    assert fields == dataclasses.replace(COMMON, source_id=None)


@pytest.mark.parametrize(
    ("lost", "told"),
    [({COMMON.height}, COMMON.height), ({COMMON.source_id, COMMON.filename}, COMMON.filename)],
)
def test_missing_fields_are_named(lost, told):
    with pytest.raises(DataError, match=f"Missing for the common names: {told};"):
        detect(_names(COMMON) - lost)


@pytest.mark.parametrize("names", [[], ["label", "pixels"], ["image/encoded"]])
def test_foreign_records_are_refused(names):
    with pytest.raises(DataError, match="not annotated pictures.*ssd convert"):
        detect(names)


def test_voc_classes_are_numbered_alphabetically():
    names = class_names(read_schema(VOC_SCHEMA))
    assert len(names) == 20
    assert names == tuple(sorted(names))
    assert (names[0], names[14], names[-1]) == ("aeroplane", "person", "tvmonitor")
    assert class_names(read_schema(VOC_HIKAPOK_SCHEMA)) == names


def test_sample_classes_are_the_shapes():
    assert class_names(read_schema(SAMPLE_SCHEMA)) == tuple(OUTLINES)


@pytest.mark.parametrize(
    ("path", "fields"),
    [(VOC_SCHEMA, COMMON), (SAMPLE_SCHEMA, COMMON), (VOC_HIKAPOK_SCHEMA, HIKAPOK)],
)
def test_schema_describes_the_fields(path, fields):
    schema = read_schema(path)
    extra = {"image/channels", "image/shape"} if fields is HIKAPOK else set()
    names = {feature.name for feature in schema.feature}
    # VOC and the sample do not mark crowds.
    assert names == (_names(fields) | extra) - {COMMON.is_crowd}

    spec = schema_utils.schema_as_feature_spec(schema).feature_spec
    assert spec[fields.encoded] == tf.io.FixedLenFeature([1], tf.string)
    for name in _OBJECT_FIELDS:
        assert isinstance(spec[getattr(fields, name)], tf.io.VarLenFeature)
    number = len(class_names(schema))
    label = next(feature for feature in schema.feature if feature.name == fields.label)
    assert (label.int_domain.min, label.int_domain.max) == (1, number)


@pytest.mark.parametrize("with_crowds", [False, True])
def test_schema_of_other_classes(with_crowds):
    schema = make_schema(["emu", "cat"], with_crowds=with_crowds)
    assert class_names(schema) == ("emu", "cat")
    features = {feature.name: feature for feature in schema.feature}
    assert features[COMMON.label].int_domain.max == 2
    voc = {feature.name for feature in read_schema(VOC_SCHEMA).feature}
    assert features.keys() - voc == ({COMMON.is_crowd} if with_crowds else set())


@pytest.fixture
def example(voc_year, make_xml):
    def example(*objects, **changed):
        voc_year.add("1", make_xml(objects))
        jpeg = (voc_year.folder / "JPEGImages" / "1.jpg").read_bytes()
        example = build_example(
            read_annotation(voc_year.folder / "Annotations" / "1.xml"),
            jpeg,
            read_header(jpeg),
            filename="1.jpg",
            source_id="VOC2007/1",
            class_ids={name: n for n, name in enumerate(class_names(read_schema(VOC_SCHEMA)), 1)},
        )
        for name, value in changed.items():
            example.features.feature[getattr(COMMON, name)].CopyFrom(value)
        return example

    return example


def _anomalies(tmp_path, schema, examples):
    path = str(tmp_path / "records.tfrecord.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for example in examples:
            writer.write(example.SerializeToString())
    statistics = tfdv.generate_statistics_from_tfrecord(
        path,
        stats_options=tfdv.StatsOptions(schema=schema),
        pipeline_options=PipelineOptions(["--runner=FnApiRunner"]),
    )
    return tfdv.validate_statistics(statistics, schema).anomaly_info


def test_good_records_have_no_anomaly(tmp_path, example):
    dog, cat = ("dog", (1, 1, 40, 36)), ("cat", (5, 6, 7, 8))
    examples = [example(dog, cat), example(cat), example(), example(dog)]
    assert not _anomalies(tmp_path, read_schema(VOC_SCHEMA), examples)


def test_hikapok_records_have_no_anomaly(tmp_path, example):
    renamed = {
        getattr(COMMON, f.name): getattr(HIKAPOK, f.name) for f in dataclasses.fields(COMMON)
    }
    examples = []
    for common in (example(("dog", (1, 1, 40, 36))), example()):
        hikapok = tf.train.Example()
        for name, feature in common.features.feature.items():
            if renamed[name]:
                hikapok.features.feature[renamed[name]].CopyFrom(feature)
        hikapok.features.feature["image/channels"].int64_list.value.append(3)
        hikapok.features.feature["image/shape"].int64_list.value.extend([36, 40, 3])
        examples.append(hikapok)
    assert not _anomalies(tmp_path, read_schema(VOC_HIKAPOK_SCHEMA), examples)


def test_bad_records_are_anomalies(tmp_path, example):
    floats = tf.train.Feature(float_list=tf.train.FloatList(value=[1.5]))
    unicorn = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"unicorn"]))
    missing = example(("dog", (1, 1, 40, 36)))
    del missing.features.feature[COMMON.encoded]
    examples = [example(("dog", (1, 1, 40, 36)), xmax=floats, text=unicorn), missing]
    found = _anomalies(tmp_path, read_schema(VOC_SCHEMA), examples)
    assert set(found) == {COMMON.xmax, COMMON.text, COMMON.encoded}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), (b"feature {", "not a TensorFlow Metadata schema"), (b"\xff", "text")],
)
def test_bad_schema_file(tmp_path, content, message):
    path = tmp_path / "schema.pbtxt"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"schema\.pbtxt: .*{message}"):
        read_schema(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "classes are unknown. Add"),
        (["dog", "dog"], "dog twice. Remove"),
        (["dog", ""], "'dog', '': a name is empty"),
        (["dog", "cat "], "'dog', 'cat ': .*ends with a space"),
    ],
)
def test_bad_class_list(values, message):
    schema = read_schema(VOC_SCHEMA)
    del schema.string_domain[0].value[:]
    schema.string_domain[0].value.extend(values)
    with pytest.raises(DataError, match=message):
        class_names(schema)


def test_class_list_inside_the_feature():
    schema = read_schema(VOC_SCHEMA)
    feature = next(feature for feature in schema.feature if feature.name == COMMON.text)
    feature.string_domain.value.extend(["cat", "dog"])
    assert class_names(schema) == ("cat", "dog")

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import ImageColor

from data.errors import DataError
from data.palette import class_colour
from data.schema import SAMPLE_SCHEMA, VOC_SCHEMA, class_names, read_schema
from trainer.config import TrainerConfig
from trainer.contact_sheet import draw_contact_sheet
from trainer.input_pipeline import training_batches
from trainer.schema_records import SchemaRecords

_RECORDS = 5
_CONFIG = TrainerConfig(detector="ssd128-small", augmentation="none", batch_size=2)
_BOX = (0.25, 0.5, 0.75, 1.0)
_RGB = ImageColor.getrgb(class_colour(3))
_TILE_PX, _LEFT_PX, _TOP_PX = 300, 8, 32


@pytest.fixture(scope="module")
def serialised(make, sample_classes):
    """Grey pictures of different shades, with an object in the odd ones."""
    return [
        make.record(
            number,
            make.encode(np.full((40, 60, 3), 40 * number, np.uint8)),
            [_BOX] * (number % 2),
            [sample_classes[2]] * (number % 2),
        )
        for number in range(_RECORDS)
    ]


@pytest.fixture(scope="module")
def shards(tmp_path_factory, make, serialised):
    return make.write_shards(tmp_path_factory.mktemp("shards"), serialised)


@pytest.fixture(scope="module")
def schema_records():
    return SchemaRecords(read_schema(SAMPLE_SCHEMA))


def _tiles(sheet, count, columns):
    pixels = np.asarray(sheet)
    for number in range(count):
        row, column = divmod(number, columns)
        top, left = _TOP_PX + row * (_TILE_PX + 8), _LEFT_PX + column * (_TILE_PX + 8)
        yield pixels[top : top + _TILE_PX, left : left + _TILE_PX].astype(int)


@pytest.mark.slow
def test_schema_records_equal_the_transform_graphs(serialised, schema_records, transformed_records):
    found, expected = schema_records(serialised), transformed_records(serialised)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 3])
def test_pictures_match_the_training_in_order(shards, schema_records, sample_classes, epoch):
    """Compares a corner, which is always free of boxes and text here."""
    config = dataclasses.replace(_CONFIG, augmentation="paper", seed=7)
    sheet = draw_contact_sheet(shards, schema_records, sample_classes, config, _RECORDS, epoch)
    # The Trainer's batches, up to the same epoch.
    one = dataclasses.replace(config, batch_size=_RECORDS)
    batches = training_batches(shards, schema_records, one, 128, _RECORDS)
    images, *_ = next(itertools.islice(batches.as_numpy_iterator(), epoch, None))
    assert not np.allclose(images[0], images[1], atol=2)
    for tile, image in zip(_tiles(sheet, _RECORDS, 3), images, strict=True):
        np.testing.assert_allclose(tile[2, -3], image[0, -1], atol=2)


@pytest.mark.slow
def test_objects_and_their_anchors_are_drawn(shards, schema_records, sample_classes):
    sheet = draw_contact_sheet(shards, schema_records, sample_classes, _CONFIG, _RECORDS)
    assert sheet.size == (3 * 308 + 8, 2 * 308 + 32)
    with_object = 0
    for tile in _tiles(sheet, _RECORDS, 3):
        left, top = int(_BOX[1] * _TILE_PX), int(_BOX[0] * _TILE_PX)
        coloured = np.ptp(tile, axis=-1) > 30
        # The box's left and top edge are drawn, unless the picture has no object.
        edges = [tile[top + 5 : 2 * top, left], tile[top, left + 60 :]]
        assert all((edge == _RGB).all() for edge in edges) or not coloured.any()
        if coloured.any():
            with_object += 1
            assert coloured[: top - 20].any() or coloured[:, : left - 5].any()
    assert with_object == 2


@pytest.mark.slow
def test_the_sheet_has_no_more_pictures_than_the_split(shards, schema_records, sample_classes):
    sheet = draw_contact_sheet(shards, schema_records, sample_classes, _CONFIG, 100)
    assert sheet.size == (3 * 308 + 8, 2 * 308 + 32)


@pytest.mark.slow
def test_shards_need_not_be_compressed(
    tmp_path, shards, serialised, schema_records, sample_classes
):
    plain = tmp_path / "train-00000.tfrecord"
    with tf.io.TFRecordWriter(str(plain)) as writer:
        for record in serialised:
            writer.write(record)
    sheets = [
        draw_contact_sheet(files, schema_records, sample_classes, _CONFIG, 1)
        for files in (shards, [str(plain)])
    ]
    np.testing.assert_array_equal(*map(np.asarray, sheets))


@pytest.mark.slow
def test_xla_padding_is_not_drawn(shards, schema_records, sample_classes):
    sheets = [
        draw_contact_sheet(
            shards, schema_records, sample_classes, dataclasses.replace(_CONFIG, xla=xla), 3
        )
        for xla in (False, True)
    ]
    np.testing.assert_array_equal(*map(np.asarray, sheets))


@pytest.mark.slow
def test_a_wrong_schema_is_reported(shards, caplog):
    schema = read_schema(VOC_SCHEMA)
    draw_contact_sheet(shards, SchemaRecords(schema), class_names(schema), _CONFIG, _RECORDS)
    assert "none of these pictures shows an object of the schema's classes (aero" in caplog.text


@pytest.mark.slow
def test_a_picture_that_is_not_a_jpeg_is_an_error(tmp_path, make, schema_records, sample_classes):
    record = make.record(0, b"\x89PNG and so on", [_BOX], [sample_classes[2]])
    shards = make.write_shards(tmp_path, [record])
    with pytest.raises(DataError, match="a picture cannot be read .*ssd run"):
        draw_contact_sheet(shards, schema_records, sample_classes, _CONFIG, 1)


def test_damaged_shards_are_named(tmp_path, schema_records, sample_classes):
    (tmp_path / "data.gz").write_bytes(b"no TFRecord")
    with pytest.raises(DataError, match="a shard cannot be read"):
        draw_contact_sheet([str(tmp_path / "data.gz")], schema_records, sample_classes, _CONFIG, 4)

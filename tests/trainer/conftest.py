"""Makes records, shards and the transform graph that a Transform component would write."""

import dataclasses
import io
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from PIL import Image

from data.fields import COMMON
from data.schema import SAMPLE_SCHEMA, class_names, read_schema
from tests.trainer.networks import build
from tests.trainer.tiny import TINY
from trainer import model_zoo
from trainer.backbones import small
from trainer.input_pipeline import TransformedRecords

SAMPLE_CLASSES = class_names(read_schema(SAMPLE_SCHEMA))


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3] without edges: a wave of 300 pixels in each channel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    channels = []
    for _ in range(3):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = np.sin(2 * np.pi * (y * np.sin(angle) + x * np.cos(angle)) / 300 + phase)
        channels.append(128 + 90 * wave)
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def encode(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def record(number: int, encoded: bytes, boxes=(), names=(), difficult=None) -> bytes:
    """A serialised record with the common names."""

    values = {
        COMMON.encoded: [encoded],
        COMMON.format: [b"jpeg"],
        COMMON.filename: [b"%06d.jpg" % number],
        COMMON.source_id: [b"VOC2007/%06d" % number],
        COMMON.sha256: [b"%064d" % number],
        COMMON.height: [1],
        COMMON.width: [1],
        COMMON.text: [name.encode() for name in names],
        COMMON.label: [1 + SAMPLE_CLASSES.index(name) for name in names],
        COMMON.difficult: list(difficult or [0] * len(boxes)),
        COMMON.truncated: [0] * len(boxes),
        COMMON.occluded: [0] * len(boxes),
    }
    for index, side in enumerate(("ymin", "xmin", "ymax", "xmax")):
        values[getattr(COMMON, side)] = [float(box[index]) for box in boxes]
    features = {}
    for name, value in values.items():
        if name.startswith("image/object/bbox/"):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
        elif name == COMMON.text or isinstance(next(iter(value), 0), bytes):
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        else:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_shards(folder, serialised, shards: int = 1) -> list[str]:
    """Writes GZIP TFRecord files, distributing the records in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in range(shards):
        path = str(folder / f"data-{shard:05d}-of-{shards:05d}.gz")
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            for item in serialised[shard::shards]:
                writer.write(item)
        paths.append(path)
    return paths


def make_transform_graph(folder, schema, classes):
    """Writes what a Transform component would for records of a schema (TFT without TFX)."""
    import tensorflow_transform.beam as tft_beam
    from apache_beam import Create, Pipeline
    from tensorflow_transform.tf_metadata import dataset_metadata

    from trainer.preprocessing import preprocessing_fn

    metadata = dataset_metadata.DatasetMetadata(schema)

    def preprocess(inputs):
        return preprocessing_fn(inputs, {"classes": classes})

    with Pipeline("FnApiRunner") as pipeline, tft_beam.Context(str(folder / "temp")):
        # No part of the graph depends on the data.
        transform_fn = (pipeline | Create([]), metadata) | tft_beam.AnalyzeDataset(preprocess)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder))
        _ = metadata | tft_beam.WriteMetadata(str(folder / "metadata"), pipeline)
    return tft.TFTransformOutput(str(folder))


@pytest.fixture(scope="session")
def make():
    """This module's functions for making pictures, records and shards."""
    return SimpleNamespace(
        smooth_picture=smooth_picture, encode=encode, record=record, write_shards=write_shards
    )


@pytest.fixture(scope="session")
def sample_classes():
    """The names of the sample data's classes."""
    return SAMPLE_CLASSES


@pytest.fixture(scope="session")
def transform_folder(tmp_path_factory):
    """The folder of a Transform component for the sample schema."""
    folder = tmp_path_factory.mktemp("transform")
    make_transform_graph(folder, read_schema(SAMPLE_SCHEMA), SAMPLE_CLASSES)
    return folder


@pytest.fixture(scope="session")
def transformed_records(transform_folder) -> TransformedRecords:
    """The transform graph of the sample schema."""
    return TransformedRecords(tft.TFTransformOutput(str(transform_folder)))


@pytest.fixture
def messages(caplog):
    """Returns what the trainer logged."""
    log = logging.getLogger("ssd.trainer")
    level = log.level
    log.addHandler(caplog.handler)
    log.setLevel(logging.INFO)
    yield lambda: caplog.messages
    log.removeHandler(caplog.handler)
    log.setLevel(level)


@pytest.fixture(scope="module")
def tiny_detector():
    """Replaces `ssd128-small` by two convolutions on 32 px, with anchors `paper` and `hikapok`."""
    other = dataclasses.replace(TINY.anchors, min_sizes=(9, 17))
    with pytest.MonkeyPatch.context() as patch:
        layouts = {"paper": TINY.anchors, "hikapok": other}
        patch.setitem(model_zoo.DETECTORS, "ssd128-small", model_zoo.Detector("small", layouts))
        patch.setattr(small, "feature_maps", TINY.feature_maps)
        yield


@pytest.fixture(scope="module")
def ssd300():
    """SSD300-VGG16 for VOC's classes and its spec; tests load weights into it."""
    return build()

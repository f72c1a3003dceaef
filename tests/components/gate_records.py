"""Records of small pictures for the data gate, and their StatisticsGen output."""

import io
import zlib

import numpy as np
import tensorflow as tf
import tensorflow_data_validation as tfdv
from PIL import Image
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from data.fields import COMMON

BOX = (0.2, 0.2, 0.55, 0.55)  # SSD128 has an anchor for it


def jpeg(seed, quality=90, size=(192, 144)):
    """A picture of smooth shades that looks different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(coarse).resize((192, 144), Image.BICUBIC).resize(size)
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def record(record_id, objects=(), encoded=None, fields=COMMON):
    """A serialised record. objects: (name, box); encoded: bytes, by default a picture."""
    encoded = jpeg(zlib.crc32(record_id.encode())) if encoded is None else encoded
    names = [name for name, _ in objects]
    texts = {fields.encoded: [encoded], fields.format: [b"jpeg"]}
    texts |= {fields.filename: [record_id.encode()], fields.text: [n.encode() for n in names]}
    if fields.source_id:
        name = f"{record_id}.jpg".encode()
        texts |= {fields.source_id: texts[fields.filename], fields.filename: [name]}
        texts |= {fields.sha256: [b"0"]}
    integers = {fields.height: [144], fields.width: [192], fields.label: [1] * len(names)}
    flags = (fields.difficult, fields.truncated, fields.occluded)
    integers |= {name: [0] * len(names) for name in flags if name}
    floats = {
        getattr(fields, side): [box[index] for _, box in objects]
        for index, side in enumerate(("ymin", "xmin", "ymax", "xmax"))
    }
    features = {n: tf.train.Feature(bytes_list={"value": v}) for n, v in texts.items()}
    features |= {n: tf.train.Feature(int64_list={"value": v}) for n, v in integers.items()}
    features |= {n: tf.train.Feature(float_list={"value": v}) for n, v in floats.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path, records):
    """Writes a TFRecord file like ImportExampleGen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for content in records:
            writer.write(content)
    return path


def statistics(path, fields=COMMON):
    """TFDV's statistics of a file, as from StatisticsGen."""
    schema = schema_pb2.Schema()
    schema.feature.add(name=fields.encoded, type=schema_pb2.BYTES).image_domain.SetInParent()
    records = tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
    batch = ExamplesToRecordBatchDecoder().DecodeBatch(list(records))
    # In memory: ten times as fast as a Beam pipeline, with the same result.
    return generate_statistics_in_memory(batch, tfdv.StatsOptions(schema=schema))

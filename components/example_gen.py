"""TFX's ImportExampleGen, copying whole shards.

TFX's own executor shuffles, for which Beam in one process holds every picture at once: 10 GB for
VOC 07+12 and 100 GB for COCO. The records are already shuffled when they are written, and training
shuffles them again.
"""

import json
import posixpath
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx.components import ImportExampleGen
from tfx.components.util import examples_utils
from tfx.dsl.components.base import executor_spec
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.proto import example_gen_pb2
from tfx.types import Artifact, artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components.artifacts import ORIGIN_FILE
from data.errors import DataError
from data.origin import read_origin
from data.record_folder import read_records


class Executor(BaseBeamExecutor):
    """Copies the TFRecord files of each input split into a split of the same name.

    Keeps the records' origin next to the splits.
    """

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See TFX's ImportExampleGen. Raises DataError for a damaged file."""
        del input_dict  # always empty
        config = example_gen_pb2.Input()
        proto_utils.json_to_proto(
            exec_properties[standard_component_specs.INPUT_CONFIG_KEY], config
        )
        (examples,) = output_dict[standard_component_specs.EXAMPLES_KEY]
        examples.split_names = artifact_utils.encode_split_names(
            [split.name for split in config.splits]
        )
        base = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        copies: list[tuple[str, str]] = []
        for split in config.splits:
            folder = artifact_utils.get_split_uri([examples], split.name)
            tf.io.gfile.makedirs(folder)
            copies += _copies(f"{base}/{split.pattern}", folder)
        with tf.io.gfile.GFile(f"{examples.uri}/{ORIGIN_FILE}", "w") as file:
            file.write(json.dumps(asdict(read_origin(_record_folder(base, config.splits[0])))))
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(copies)
                | "Spread" >> beam.Reshuffle()
                | "Copy" >> beam.MapTuple(copy_shard)
            )
        examples_utils.set_payload_format(
            examples, exec_properties[standard_component_specs.OUTPUT_DATA_FORMAT_KEY]
        )


class ShardExampleGen(ImportExampleGen):
    """ImportExampleGen for shuffled shards; keeps its spans, versions and fingerprint."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)


def _copies(pattern: str, folder: str) -> Iterator[tuple[str, str]]:
    """(file, target in the split's folder) for each file of a split, named as Beam would."""
    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise DataError(f"{pattern}: no TFRecord files. Convert the data again")
    for number, file in enumerate(files):
        yield file, f"{folder}/data_tfrecord-{number:05d}-of-{len(files):05d}.gz"


def _record_folder(base: str, split: example_gen_pb2.Input.Split) -> str:
    """The folder that holds the split as files or in a subfolder of that name."""
    folder = posixpath.dirname(f"{base}/{split.pattern}")
    return posixpath.dirname(folder) if posixpath.basename(folder) == split.name else folder


def copy_shard(source: str, target: str) -> None:
    """Checks every record of a TFRecord file, compressed or not, and copies it as GZIP.

    Raises:
        DataError: the file is damaged.
    """
    records = read_records(source)
    _check(records, source)
    # Several workers may copy the same shard at once; each would write the same bytes.
    temporary = f"{target}.{uuid.uuid4().hex}"
    if source.endswith(".gz"):
        tf.io.gfile.copy(source, temporary)
    else:
        options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
        with tf.io.TFRecordWriter(temporary, options) as writer:
            for record in records.as_numpy_iterator():
                writer.write(record)
    tf.io.gfile.rename(temporary, target, overwrite=True)


def _check(records: tf.data.Dataset, source: str) -> None:
    count = 0
    try:
        for _ in records:
            count += 1
    except tf.errors.OpError as error:
        raise DataError(
            f"{source}: damaged after {count} records ({error.message}). Write it again, or "
            "convert the data again with `ssd convert`"
        ) from error

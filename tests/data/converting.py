"""Runs conversions and reads what they write."""

import tensorflow as tf

from data.beam_runner import IN_PROCESS
from data.convert import convert as convert_voc
from data.fields import COMMON
from data.options import ConversionOptions


def convert(voc_root, output, *, seed=0, beam_options=IN_PROCESS, overwrite=False, **options):
    """`data.convert.convert` with the options as keywords."""
    return convert_voc(
        voc_root,
        output,
        ConversionOptions(**options),
        seed=seed,
        beam_options=beam_options,
        overwrite=overwrite,
    )


def read_records(folder):
    examples = []
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path), compression_type="GZIP"):
            example = tf.train.Example.FromString(record.numpy())
            examples.append(
                {
                    name: list(getattr(feature, feature.WhichOneof("kind")).value)
                    for name, feature in example.features.feature.items()
                }
            )
    return examples


def sources_of(folder):
    return [example[COMMON.source_id][0].decode() for example in read_records(folder)]


def files_in(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

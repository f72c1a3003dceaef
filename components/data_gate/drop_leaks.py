"""Training data without the pictures that are in another split too."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import tensorflow as tf
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import Examples

from components.artifacts import DATA_GATE_FILE, EXCLUDED_RECORDS, DataGateReport
from data.splits import EVAL, TRAIN


@component
def DropLeaks(
    examples: InputArtifact[Examples],
    report: InputArtifact[DataGateReport],
    kept: OutputArtifact[Examples],
    id_feature: Parameter[str],
) -> None:
    """Writes the data to train with: the train split without leaks, and the eval split.

    report: the data gate's, with the ids of the training records to leave out.
    id_feature: the feature with a record's id.
    """
    found = json.loads((Path(report.uri) / DATA_GATE_FILE).read_text(encoding="utf-8"))
    for split, excluded in ((TRAIN, found[EXCLUDED_RECORDS]), (EVAL, ())):
        folder = Path(kept.uri) / f"Split-{split}"
        folder.mkdir(parents=True)
        for shard in sorted(Path(artifact_utils.get_split_uri([examples], split)).iterdir()):
            copy_without(shard, folder / shard.name, excluded, id_feature)
    kept.split_names = artifact_utils.encode_split_names([TRAIN, EVAL])


def copy_without(source: Path, target: Path, excluded: Collection[str], id_feature: str) -> None:
    """Copies a GZIP shard without the records whose ids are in `excluded`."""
    if not excluded:
        shutil.copyfile(source, target)
        return
    with tf.io.TFRecordWriter(str(target), "GZIP") as writer:
        for record in tf.data.TFRecordDataset(str(source), "GZIP").as_numpy_iterator():
            if _record_id(record, id_feature) not in excluded:
                writer.write(record)


def _record_id(record: bytes, id_feature: str) -> str:
    feature = tf.train.Example.FromString(record).features.feature[id_feature]
    return feature.bytes_list.value[0].decode()

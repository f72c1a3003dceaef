"""The whole detector overfits sixteen real pictures, from VOC files to mAP."""

import keras
import pytest

from data.convert import convert
from data.options import ConversionOptions
from data.schema import VOC_SCHEMA, class_names, read_schema
from data.voc import read_annotation, relative_boxes
from trainer.anchors import anchor_boxes
from trainer.config import TrainerConfig
from trainer.detector import build_network, detector_spec
from trainer.export import ServedDetector
from trainer.input_pipeline import list_shards, training_batches
from trainer.schema_records import SchemaRecords
from trainer.selection import EvalSplit
from trainer.training import train

_PICTURES = 16
# Relative to the picture; smaller objects are a few pixels of the network's 128.
_LEAST_SIDE = 0.2
_CONFIG = TrainerConfig(
    detector="ssd128-small",
    augmentation="none",
    batch_size=_PICTURES,
    steps=150,
    learning_rate=0.05,
    warmup_learning_rate=0.005,
    warmup_steps=50,
    learning_rate_steps=(0.8,),
    clip_norm=10.0,
    log_every=100,
    checkpoint_every=1000,
)


@pytest.fixture(scope="module")
def voc_root(tmp_path_factory, voc_fixtures):
    """The first pictures whose objects are all large enough and not difficult."""
    year = voc_fixtures / "voc2007_300" / "VOCdevkit" / "VOC2007"
    copy = tmp_path_factory.mktemp("voc") / "VOC2007"
    (copy / "ImageSets" / "Main").mkdir(parents=True)
    for name in ("Annotations", "JPEGImages"):
        (copy / name).symlink_to(year / name)
    ids = (year / "ImageSets" / "Main" / "trainval.txt").read_text().split()
    chosen = [image_id for image_id in ids if _is_plain(year / "Annotations" / f"{image_id}.xml")]
    assert len(chosen) >= _PICTURES
    (copy / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(chosen[:_PICTURES]))
    return copy.parent


def _is_plain(path) -> bool:
    annotation = read_annotation(path)
    boxes = [item.box_px for item in annotation.objects]
    boxes = relative_boxes(boxes, annotation.width, annotation.height)
    large = (boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE).all()
    return bool(large) and not any(item.difficult for item in annotation.objects)


@pytest.mark.e2e
def test_the_detector_overfits_a_few_pictures(tmp_path, voc_root):
    convert(voc_root, tmp_path / "records", ConversionOptions(eval_fraction=0))
    schema = read_schema(VOC_SCHEMA)
    classes, records = class_names(schema), SchemaRecords(schema)
    shards = list_shards([str(tmp_path / "records" / "train" / "*")])
    spec = detector_spec(_CONFIG)
    keras.utils.set_random_seed(_CONFIG.seed)
    network = build_network(spec, len(classes))
    split = EvalSplit(shards, records, classes)
    served = ServedDetector(network, spec.anchors, classes, records, _CONFIG)
    assert split.mean_average_precision(served.serving_examples) < 0.1

    def batches(first_step, context):
        size = spec.anchors.image_size
        return training_batches(shards, records, _CONFIG, size, _PICTURES, first_step, context)

    anchors = anchor_boxes(spec.anchors)
    train(network, anchors, batches, _CONFIG, tmp_path / "checkpoints", tmp_path / "logs")
    assert split.mean_average_precision(served.serving_examples) > 0.9

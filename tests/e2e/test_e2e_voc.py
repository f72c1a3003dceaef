"""SSD300-VGG16 on real pictures, from a VOC folder to predictions of the pushed model."""

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from data.schema import VOC_SCHEMA, class_names, read_schema

pytestmark = pytest.mark.e2e

_SETTINGS = ("trainer.steps=2", "trainer.batch_size=2", "evaluator.min_map=0")


@pytest.fixture(scope="module")
def voc_root(voc_fixtures, tmp_path_factory):
    """A VOCdevkit with the real pictures and short lists of them."""
    year = voc_fixtures / "voc2007_300" / "VOCdevkit" / "VOC2007"
    copy = tmp_path_factory.mktemp("voc") / "VOCdevkit" / "VOC2007"
    (copy / "ImageSets" / "Main").mkdir(parents=True)
    for folder in ("Annotations", "JPEGImages"):
        (copy / folder).symlink_to(year / folder)
    for name, pictures in (("trainval", 60), ("test", 4)):
        ids = (year / "ImageSets" / "Main" / f"{name}.txt").read_text().split()[:pictures]
        (copy / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    return copy.parent


@pytest.fixture(scope="module")
def run(voc_root, run_python, tmp_path_factory):
    """The finished run and its output folder."""
    output = tmp_path_factory.mktemp("ssd300")
    options = [word for value in _SETTINGS for word in ("--set", value)]
    arguments = ("--preset", "ssd300-voc", "--data", voc_root, "--output", output)
    yield run_python("local_runner.py", *arguments, *options), output
    # Large: several copies of model and optimiser state for 26 million parameters.
    shutil.rmtree(output)


def test_real_pictures_become_a_pushed_model(run):
    process, output = run
    assert process.returncode == 0, process.stdout + process.stderr
    made = process.stdout
    held_out = int(re.search(r"eval: (\d+) of the train pictures, held out", made)[1])
    assert held_out > 0
    assert re.search(rf"^  train: {60 - held_out} pictures, \d+ objects: .*person=", made, re.M)
    assert "detector=ssd300-vgg16 classes=20 parameters=26.3M anchors=8732" in made
    assert re.search(r"step=2/2 loss=\d+\.\d+ ", made)
    for name in class_names(read_schema(VOC_SCHEMA)):
        assert re.search(rf"│ {name} +│", made)
    assert re.search(rf"^pushed:  {output}/serving/ssd/\d+$", made, re.M)


def test_the_pushed_models_three_signatures_agree(run, voc_fixtures):
    _, output = run
    (folder,) = (output / "serving" / "ssd").glob("[0-9]*")
    model = tf.saved_model.load(str(folder))
    encoded = (voc_fixtures / "images" / "dog.jpg").read_bytes()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    record = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    pixels = tf.io.decode_jpeg(encoded, channels=3)
    answers = [
        model.signatures["serving_default"](image_bytes=tf.constant([encoded])),
        model.signatures["serving_tensor"](images=pixels[None]),
        model.signatures["serving_examples"](examples=tf.constant([record.SerializeToString()])),
    ]
    count = int(answers[0]["num_detections"][0])
    assert count > 0
    names = set(answers[0]["detection_class_names"][0, :count].numpy())
    assert names <= {name.encode() for name in class_names(read_schema(VOC_SCHEMA))}
    boxes = answers[0]["detection_boxes"][0, :count].numpy()
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    for answer in answers[1:]:
        assert int(answer["num_detections"][0]) == count
        for name in ("detection_scores", "detection_boxes"):
            np.testing.assert_allclose(answer[name], answers[0][name], atol=1e-4)

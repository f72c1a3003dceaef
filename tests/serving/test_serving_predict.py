import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving import predict
from serving.detections import detections_of
from serving.drawing import class_colour


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
        status = predict.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_boxes_names_and_scores_of_what_is_on_the_picture(run, picture, blob_model, tmp_path):
    status, out, err = run(picture, "--model", blob_model, "--output", tmp_path / "out", "--json")
    assert (status, err) == (0, "")
    (result,) = json.loads(out)
    found = {d["name"]: d for d in result["detections"]}
    assert sorted(found) == ["blue", "red"]
    assert found["red"]["class"] == 1 and found["blue"]["class"] == 3
    expected = {"red": (0.1, 0.05, 0.5, 0.3), "blue": (0.3, 0.5, 0.9, 0.95)}
    for name, box in expected.items():
        sides = [found[name]["box"][side] for side in ("ymin", "xmin", "ymax", "xmax")]
        np.testing.assert_allclose(sides, box, atol=1e-6)
        assert found[name]["score"] == 1.0
    assert result["drawing"] == str(tmp_path / "out" / "blobs.detections.jpg")


def test_the_drawing_shows_the_box_in_its_class_colour(run, picture, blob_model, tmp_path):
    status, out, _ = run(picture, "--model", blob_model, "--output", tmp_path)
    drawing = tmp_path / "blobs.detections.jpg"
    assert (status, out) == (0, f"{picture}: 2 objects: 1 red, 1 blue -> {drawing}\n")
    pixels = np.asarray(Image.open(drawing)).astype(int)
    height, width = pixels.shape[:2]
    assert (width, height) == (400, 200)
    edge = pixels[round(0.89 * height) : round(0.9 * height), round(0.6 * width)]
    assert np.abs(edge - class_colour("blue")).max() < 40
    assert [path.name for path in tmp_path.glob(".*")] == [], "no partial file is left"


def test_the_drawing_goes_to_the_current_folder_by_default(
    run, picture, blob_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(picture, "--model", blob_model)[0] == 0
    assert (tmp_path / "blobs.detections.jpg").is_file()


def test_the_score_threshold_keeps_what_reaches_it():
    outputs = {
        "num_detections": 3,
        "detection_scores": np.array([0.2, 0.9, 0.5, 0.99], np.float32),
        "detection_class_names": [b"a", b"b", "c", "padding"],
        "detection_classes": np.arange(4),
        "detection_boxes": np.zeros((4, 4), np.float32),
    }
    assert [d.name for d in detections_of(outputs, 0.5)] == ["b", "c"]
    assert [d.name for d in detections_of(outputs, 0.0)] == ["b", "c", "a"]


def test_the_highest_version_is_taken_by_number(blob_model):
    assert predict.SavedModelDetector(blob_model).folder == blob_model / "20"
    assert predict.SavedModelDetector(blob_model / "3").folder == blob_model / "3"


def test_grey_and_cmyk_pictures(run, blob_model, tmp_path):
    Image.new("L", (50, 40), 200).save(tmp_path / "grey.jpg")
    Image.new("CMYK", (50, 40)).save(tmp_path / "cmyk.jpg")
    for name in ("grey", "cmyk"):
        status, out, err = run(
            tmp_path / f"{name}.jpg", "--model", blob_model, "--output", tmp_path
        )
        assert (status, err) == (0, "")
        assert "no objects" in out


def test_a_picture_the_model_cannot_decode_is_named(run, picture, blob_model, tmp_path):
    path = tmp_path / "scan.tiff"
    Image.open(picture).save(path)
    status, out, err = run(picture, path, "--model", blob_model, "--output", tmp_path / "out")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {path}: the model cannot decode the picture")
    assert "Traceback" not in err


def test_nothing_is_written_when_a_later_picture_is_missing(run, picture, blob_model, tmp_path):
    output = tmp_path / "out"
    status, _, err = run(picture, tmp_path / "no.jpg", "--model", blob_model, "--output", output)
    assert status == 2
    assert "no.jpg: no such picture" in err
    assert not output.exists()


def test_two_pictures_of_one_name_are_refused(run, picture, blob_model, tmp_path):
    (tmp_path / "other").mkdir()
    second = shutil.copy(picture, tmp_path / "other")
    status, _, err = run(picture, second, "--model", blob_model, "--output", tmp_path / "out")
    assert status == 2
    assert "would both be drawn to" in err


def test_folders_without_a_model(run, picture, tmp_path):
    assert "nowhere: no such folder" in run(picture, "--model", tmp_path / "nowhere")[2]
    (tmp_path / "base" / "7").mkdir(parents=True)
    status, _, err = run(picture, "--model", tmp_path / "base")
    assert status == 2
    assert "base: no model in it" in err


def test_a_broken_and_a_foreign_model(run, picture, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"not a graph")
    status, _, err = run(picture, "--model", tmp_path / "broken")
    assert status == 2
    assert "broken: the model does not load" in err

    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None], name="x")])
    tf.saved_model.save(module, str(tmp_path / "foreign"), signatures=module.f)
    status, _, err = run(picture, "--model", tmp_path / "foreign")
    assert status == 2
    assert "no signature serving_default from image_bytes" in err

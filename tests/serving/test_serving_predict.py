"""`ssd predict` as users run it: pictures of all kinds in, results and drawings out."""

import csv
import io
import itertools
import json
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO

from data.voc import read_annotation
from metrics.voc_map import evaluate_folders
from serving import detecting, predict
from tests.serving.conftest import blob_picture, rgb_of

_RED, _BLUE = (0.1, 0.05, 0.5, 0.3), (0.3, 0.5, 0.9, 0.95)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments)])
        status = predict.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def folder(tmp_path):
    """Pictures in folders, each with a different object or none; some share a name."""
    root = tmp_path / "photos"
    (root / "a" / "deep").mkdir(parents=True)
    (root / "b").mkdir()
    for path, blobs in _FOLDER.items():
        blob_picture(blobs=blobs).save(root / path, quality=100, subsampling=0)
    (root / "notes.txt").write_text("no picture")
    return root


_FOLDER = {
    "a/deep/one.jpg": [("red", (0.1, 0.1, 0.4, 0.4))],
    "a/same.jpg": [("green", (0.2, 0.2, 0.6, 0.5))],
    "b/same.jpg": [("blue", (0.5, 0.5, 0.9, 0.9))],
    "b/same.png": [],
}
_NAMES = {path: [name for name, _ in blobs] for path, blobs in _FOLDER.items()}


def _lines(text):
    return [json.loads(line) for line in text.splitlines()]


def _names(entry):
    return [detection["name"] for detection in entry["detections"]]


def test_boxes_are_relative_and_in_pixels(run, picture, blob_model):
    status, out, err = run(picture, "--model", blob_model, "--format", "json", "--no-draw")
    assert (status, err) == (0, "")
    (entry,) = _lines(out)
    assert (entry["width"], entry["height"], entry["drawing"]) == (200, 100, None)
    found = {d["name"]: d for d in entry["detections"]}
    assert sorted(found) == ["blue", "red"]
    assert found["red"]["class"] == 1 and found["blue"]["class"] == 3
    for name, box in {"red": _RED, "blue": _BLUE}.items():
        sides = ("ymin", "xmin", "ymax", "xmax")
        np.testing.assert_allclose([found[name]["box"][s] for s in sides], box, atol=1e-6)
        pixels = [found[name]["box_px"][s] for s in sides]
        np.testing.assert_allclose(pixels, np.multiply(box, (100, 200, 100, 200)), atol=1e-4)
        assert found[name]["score"] == 1.0


def test_the_drawing_shows_the_box_in_the_colour_of_its_class(run, picture, blob_model, tmp_path):
    drawings = tmp_path / "drawn"
    status, out, _ = run(picture, "--model", blob_model, "--draw", drawings)
    drawing = drawings / "blobs.detections.jpg"
    assert (status, out) == (0, f"{picture}: 2 objects: 1 red, 1 blue -> {drawing}\n")
    pixels = np.asarray(Image.open(drawing)).astype(int)
    height, width = pixels.shape[:2]
    assert (width, height) == (400, 200)
    edge = pixels[round(0.89 * height) : round(0.9 * height), round(0.6 * width)]
    assert np.abs(edge - rgb_of("blue")).max() < 40
    assert [path.name for path in drawings.glob(".*")] == [], "no partial file is left"


def test_drawings_go_to_a_separate_folder(run, picture, blob_model, tmp_path):
    assert run(picture, "--model", blob_model, "--no-draw")[0] == 0
    assert not (tmp_path / "detections").exists()
    assert run(picture, "--model", blob_model)[0] == 0
    assert (tmp_path / "detections" / "blobs.detections.jpg").is_file()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_every_picture_of_a_folder_gets_its_own_result_and_drawing(
    run, folder, blob_model, tmp_path, size
):
    status, out, _ = run(
        folder, "--model", blob_model, "--format", "json", "--draw", "drawn", "--batch-size", size
    )
    assert status == 0
    entries = _lines(out)
    assert {e["image"]: _names(e) for e in entries} == {
        str(folder / path): names for path, names in _NAMES.items()
    }
    drawings = [entry["drawing"] for entry in entries]
    assert len(set(drawings)) == 4
    for entry in entries:
        drawn = np.asarray(Image.open(tmp_path / entry["drawing"])).astype(int).reshape(-1, 3)
        for name in ("red", "green", "blue"):
            shown = (np.abs(drawn - rgb_of(name)).max(1) < 30).any()
            assert shown == (name in _names(entry)), (entry["image"], name)


def test_a_picture_named_twice_is_predicted_once(run, folder, blob_model, tmp_path):
    (tmp_path / "list.txt").write_text(f"{folder}/b/same.png\n\n{folder}/a/same.jpg\n")
    status, out, _ = run(
        *(f"{folder}/**/o*.jpg", folder / "a" / "same.jpg", "--list", tmp_path / "list.txt"),
        *("--model", blob_model, "--format", "json", "--no-draw"),
    )
    assert status == 0
    wanted = ("a/deep/one.jpg", "a/same.jpg", "b/same.png")
    assert [entry["image"] for entry in _lines(out)] == [str(folder / path) for path in wanted]


@pytest.mark.slow
def test_a_broken_picture_is_reported_and_skipped(run, folder, blob_model):
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    # The header is intact, so only the model notices.
    whole = (folder / "b" / "same.jpg").read_bytes()
    (folder / "b" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    status, out, err = run(
        *(folder, folder / "no.jpg", "--model", blob_model, "--format", "json", "--no-draw")
    )
    assert status == 1
    assert {e["image"]: _names(e) for e in _lines(out)} == {
        str(folder / path): names for path, names in _NAMES.items()
    }
    first, second, third, *summary = err.splitlines()
    assert first.startswith(f"error: {folder}/a/broken.jpg: ")
    assert second.startswith(f"error: {folder}/b/half.jpg: the model cannot decode the picture")
    assert third.startswith(f"error: {folder}/no.jpg: cannot be read")
    assert summary == [
        "3 of 7 pictures failed:",
        *(f"  {folder}/{path}" for path in ("a/broken.jpg", "b/half.jpg", "no.jpg")),
    ]


def test_results_are_written_before_all_pictures_are_read(folder, blob_model, monkeypatch, run):
    read, written = [], []
    real = detecting.read_picture
    monkeypatch.setattr(detecting, "read_picture", lambda file: read.append(file) or real(file))
    for number in range(40):
        shutil.copy(folder / "a" / "same.jpg", folder / f"{number}.jpg")
    real_keeps = detecting.ScoreThresholds.keeps

    def keeps(self, name, score):
        written.append(len(read))
        return real_keeps(self, name, score)

    monkeypatch.setattr(detecting.ScoreThresholds, "keeps", keeps)
    status, _, err = run(folder, "--model", blob_model, "--no-draw", "--batch-size", 2)
    assert status == 0
    assert min(written) < 20, "memory holds a few batches, not all pictures"
    assert "detect: 11 of 44 pictures" in err


def test_two_batches_are_in_the_model_while_results_are_written(folder):
    files = [detecting.PictureFile(folder / "a" / "same.jpg", str(n)) for n in range(3)]
    both_there, answered = threading.Barrier(2), threading.Event()
    asked = itertools.count()

    def ask(pictures):
        if next(asked):  # for the second and third batch; the first is answered at once
            both_there.wait(timeout=10)
            answered.set()
        return [{"num_detections": 0}]

    def write(result):
        assert answered.wait(timeout=10)

    detecting.detect_all(
        files, ask, write, batch_size=1, thresholds=detecting.ScoreThresholds(), drawings=None
    )


def test_rotated_pictures_are_detected_and_drawn_upright(run, blob_model, tmp_path):
    upright = blob_picture(blobs=[("red", _RED)])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    status, out, _ = run("turned.jpg", "--model", blob_model, "--format", "json")
    assert status == 0
    (entry,) = _lines(out)
    assert (entry["width"], entry["height"]) == upright.size
    (found,) = (d for d in entry["detections"] if d["name"] == "red")
    np.testing.assert_allclose(list(found["box"].values()), _RED, atol=0.02)
    with Image.open(entry["drawing"]) as drawing:
        assert drawing.size == (400, 200)


def test_other_formats_and_colour_modes(run, blob_model, picture, tmp_path):
    Image.open(picture).save("scan.tiff")
    Image.open(picture).save("scan.webp", lossless=True)
    Image.new("L", (50, 40), 200).save("grey.jpg")
    Image.new("CMYK", (50, 40)).save("cmyk.jpg")
    names = ("scan.tiff", "scan.webp", "grey.jpg", "cmyk.jpg")
    status, out, err = run(*names, "--model", blob_model, "--format", "json", "--no-draw")
    assert (status, err) == (0, "")
    assert [len(entry["detections"]) for entry in _lines(out)] == [2, 2, 0, 0]


def test_csv_has_a_row_for_each_detection(run, folder, blob_model, tmp_path):
    arguments = ("--model", blob_model, "--format", "csv", "--no-draw")
    assert run(folder, *arguments, "--output", "found/all.csv")[:2] == (0, "")
    text = (tmp_path / "found" / "all.csv").read_text()
    assert run(folder, *arguments)[1] == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == ["red", "green", "blue"]
    assert [float(rows[2][f"{s}_px"]) for s in ("ymin", "xmin", "ymax", "xmax")] == [
        *(50, 100, 90, 180)
    ]


def test_coco_is_read_by_pycocotools(run, folder, blob_model, tmp_path):
    run(folder, "--model", blob_model, "--format", "coco", "--no-draw", "--output", "coco.json")
    data = COCO(str(tmp_path / "coco.json"))
    assert {image["file_name"] for image in data.imgs.values()} == {
        str(folder / path) for path in _FOLDER
    }
    (blue,) = data.loadAnns(data.getAnnIds(catIds=data.getCatIds(["blue"])))
    assert blue["bbox"] == [100, 50, 80, 40]
    assert data.imgs[blue["image_id"]]["file_name"].endswith("b/same.jpg")


def test_voc_is_read_as_annotations(run, folder, blob_model, tmp_path):
    run(folder, "--model", blob_model, "--format", "voc", "--no-draw", "--output", "xml")
    files = {str(p.relative_to(tmp_path / "xml")) for p in (tmp_path / "xml").rglob("*.xml")}
    assert files == {"a/deep/one.xml", "a/same.xml", "b/same.jpg.xml", "b/same.png.xml"}
    annotation = read_annotation(tmp_path / "xml" / "b" / "same.jpg.xml")
    (found,) = annotation.objects
    assert found.name == "blue"
    assert "<xmin>101</xmin>" in (tmp_path / "xml" / "b" / "same.jpg.xml").read_text()
    assert "<xmax>180</xmax>" in (tmp_path / "xml" / "b" / "same.jpg.xml").read_text()


def test_voc_map_scores_comp4_files(run, blob_model, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, blobs in enumerate(_FOLDER.values()):
        blob_picture(blobs=blobs).save(folder / f"{number}.jpg", quality=100, subsampling=0)
    arguments = ("--model", blob_model, "--no-draw")
    run(folder, *arguments, "--format", "voc", "--output", "truth")
    run(folder, *arguments, "--format", "comp4", "--output", "found")
    (tmp_path / "list.txt").write_text("0\n1\n2\n3\n")
    result, warnings = evaluate_folders(
        tmp_path / "truth", tmp_path / "list.txt", tmp_path / "found"
    )
    assert result.map_11_point == 1.0
    status, _, err = run(folder, *arguments, "--format", "comp4", "--output", "found")
    assert status == 2 and "already holds detections" in err
    shutil.copy(folder / "0.jpg", folder / "a b.jpg")
    status, _, err = run(folder, *arguments, "--format", "comp4", "--output", "other")
    assert status == 1 and "a b.jpg: comp4 cannot represent names with spaces" in err


def test_the_newest_version_tells_its_reports_thresholds(run, picture, blob_model, monkeypatch):
    asked = []
    monkeypatch.setattr(
        predict,
        "thresholds_of",
        lambda _, model: asked.append(model) or detecting.ScoreThresholds(),
    )
    assert run(picture, "--model", blob_model, "--no-draw")[0] == 0
    assert asked == [blob_model / "20"]


def test_the_newest_version_is_the_highest_number(blob_model):
    assert predict.SavedModelDetector(blob_model).folder == blob_model / "20"
    assert predict.SavedModelDetector(blob_model / "3").folder == blob_model / "3"


def test_arguments_that_name_no_pictures(run, blob_model, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((), "no pictures. Name files"),
        (("empty",), "empty: no pictures below this folder"),
        (("*.gif",), "*.gif: no file matches this pattern"),
        (("--list", "no.txt"), "no.txt: cannot be read"),
    ):
        status, out, err = run(*arguments, "--model", blob_model)
        assert (status, out) == (2, "")
        assert message in err and err.count("\n") == 1


def test_folders_without_a_model(run, picture, tmp_path):
    assert "nowhere: no such folder" in run(picture, "--model", tmp_path / "nowhere")[2]
    (tmp_path / "base" / "7").mkdir(parents=True)
    status, _, err = run(picture, "--model", tmp_path / "base")
    assert status == 2
    assert "base: no model here" in err


def test_a_broken_model_and_another_kind_of_model(run, picture, tmp_path):
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

"""`predict --beam`: every picture becomes a result or a failure, with one worker or two."""

import io
import json
import re

import pytest
import tensorflow as tf
from PIL import Image

from serving import batch_prediction, predict
from tests.serving.conftest import CLASS_NAMES, blob_picture


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = predict.main([*map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def photos(tmp_path):
    """25 pictures with one object each, of different sizes and classes, and a broken one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(24):
        box = (0.1, 0.1, 0.4 + number / 60, 0.5)
        blob_picture(blobs=[(CLASS_NAMES[number % 3], box)]).save(folder / f"{number}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated: the model must see it upright
    blob_picture(blobs=[("red", (0.1, 0.1, 0.4, 0.9))]).save(folder / "23.jpg", exif=exif)
    (folder / "24.png").write_bytes(b"no picture")
    return folder


def _results(folder) -> list[dict]:
    shards = sorted(folder.glob("predictions-*-of-*.jsonl"))
    lines = [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["image"])


def _failures(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def test_results_equal_those_without_beam(run, photos, blob_model):
    _, plain, _ = run(photos, "--model", blob_model, "--no-draw", "--format", "json")
    expected = sorted(map(json.loads, plain.splitlines()), key=lambda line: line["image"])
    # A relative path, as users give it; workers run in other folders.
    status, out, err = run("photos", "--model", blob_model, "--beam", "direct", "--output", "found")
    assert status == 1
    assert _results(photos.parent / "found") == expected and len(expected) == 25
    assert re.fullmatch(
        r"wrote found: 25 pictures in 1 file, \d+\.\d s, \d+\.\d pictures/s including start-up\n",
        out,
    )
    (failure,) = _failures(photos.parent / "found")
    assert failure["image"] == str(photos / "24.png")
    first, *quarters = err.splitlines()[:-2]
    assert first == "detecting in 26 pictures, in this process"
    assert quarters[-1] == "detect: 26 of 26 pictures", "including the failed one"
    assert err.splitlines()[-2:] == [
        f"error: {failure['error']}",
        "1 failed: see found/failures.jsonl",
    ]
    assert not (photos.parent / "detections").exists()


def test_batch_size_and_thresholds_are_passed_on(run, photos, blob_model, monkeypatch):
    asked = []

    def written(*_, **options):
        asked.append((options["batch_size"], options["thresholds"].by_class))
        return batch_prediction.Written(0, 0, [])

    monkeypatch.setattr(batch_prediction, "predict_on_beam", written)
    given = photos, "--model", blob_model, "--beam", "direct", "--output", "found"
    assert run(*given, "--batch-size", 3, "--score-threshold", "red:0.99")[0] == 0
    assert asked == [(3, {"red": 0.99})]
    batches = batch_prediction._Detector(blob_model, None, 3).batch_elements_kwargs()
    assert (batches["min_batch_size"], batches["max_batch_size"]) == (3, 3)


@pytest.mark.slow
def test_two_workers_give_the_same_results_as_one(run, photos, blob_model, tmp_path):
    given = photos, "--model", blob_model, "--batch-size", 3, "--score-threshold", "red:0.99"
    assert run(*given, "--beam", "direct", "--output", "one")[0] == 1
    beam = "--beam", "multiprocess", "--output", "two", "--", "--direct_num_workers=2"
    status, _, err = run(*given, *beam)
    assert status == 1
    assert err.startswith("detecting in 26 pictures, 2 worker processes\n")
    assert "detect: 26 of 26 pictures\n" in err
    assert _results(tmp_path / "two") == _results(tmp_path / "one") != []
    assert _failures(tmp_path / "two") == _failures(tmp_path / "one") != []
    shards = [path for path in (tmp_path / "two").glob("predictions-*") if path.stat().st_size]
    assert len(shards) > 1, "both workers detect"


def _example(encoded: bytes | None, **names: str) -> bytes:
    example = tf.train.Example()
    for name, text in names.items():
        example.features.feature[f"image/{name}"].bytes_list.value.append(text.encode())
    if encoded is not None:
        example.features.feature["image/encoded"].bytes_list.value.append(encoded)
    return example.SerializeToString()


def _png(name: str) -> bytes:
    buffer = io.BytesIO()
    blob_picture(blobs=[(name, (0.2, 0.2, 0.6, 0.6))]).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_record_becomes_a_result_or_a_failure(run, blob_model, tmp_path):
    good = tmp_path / "records" / "test" / "test-00000-of-00001.tfrecord.gz"
    good.parent.mkdir(parents=True)
    records = [
        _example(_png("red"), source_id="VOC2007/1", filename="1.png"),
        b"no example",
        _example(None, filename="2.png"),
        _example(_png("green")),
        _example(_png("blue")[:60], filename="cut.png"),
        _example(_png("blue"), filename="3.png"),
    ]
    with tf.io.TFRecordWriter(str(good), tf.io.TFRecordOptions("GZIP")) as writer:
        for record in records:
            writer.write(record)
    cut = good.with_name("other.tfrecord")
    with tf.io.TFRecordWriter(str(cut)) as writer:
        for name in CLASS_NAMES:
            writer.write(_example(_png(name), filename=f"{name}.png"))
    cut.write_bytes(cut.read_bytes()[:-9])
    arguments = "--records", "records", "--model", blob_model, "--beam", "direct"
    status, _, err = run(*arguments, "--output", "found")
    assert status == 1
    assert err.startswith("detecting in the pictures of 2 TFRecord files, in this process\n")
    assert "detect:" not in err, "the number of pictures is unknown"
    found = {line["image"]: line["detections"] for line in _results(tmp_path / "found")}
    names = {image: [detection["name"] for detection in found[image]] for image in found}
    assert names == {
        "VOC2007/1": ["red"],
        f"{good}, record 4": ["green"],
        "3.png": ["blue"],
        "red.png": ["red"],
        "green.png": ["green"],
    }
    errors = sorted(failure["error"] for failure in _failures(tmp_path / "found"))
    assert [error.startswith(str(tmp_path)) for error in errors].count(True) >= 3
    assert len(errors) == 4
    text = "\n".join(errors)
    assert f"{good}, record 2: not a tf.Example" in text
    assert f"{good}, record 3: no image/encoded" in text
    assert "cut.png: " in text or f"{good}, record 5" in text
    assert f"{cut}, after record 2: not a TFRecord file, or cut off" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos", "--beam", "direct"), "--beam needs --output"),
        (("--records", "r", "--output", "found"), "--records needs --beam"),
        (("photos", "--beam", "direct", "--output", "f", "--format", "voc"), "leave out --format"),
        (("photos", "--beam", "direct", "--output", "f", "--draw", "d"), "leave out --draw"),
        (("photos", "--beam", "direct", "--output", "photos"), "exists already"),
        (("--records", "none", "--beam", "direct", "--output", "f"), "none: no TFRecords"),
        (("--beam", "direct", "--output", "f"), "no pictures"),
        (("photos", "--beam", "dataflow", "--output", "f"), "its workers cannot see"),
        (("photos", "--beam", "direct", "--output", "f", "--", "--nonsense=1"), "no such option"),
    ],
)
def test_arguments_that_do_not_fit_together(
    run, photos, blob_model, capsys, arguments, message, tmp_path
):
    try:
        status, _, err = run("--model", blob_model, *arguments)
    except SystemExit as exit:
        status, err = exit.code, capsys.readouterr().err
    assert status == 2 and message in err
    assert not (tmp_path / "found").exists() and not (tmp_path / "f").exists()

"""The data gate's Beam pipeline."""

import io
import itertools

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image

from components.data_gate.scan import SplitFacts, scan
from data.fields import COMMON, HIKAPOK
from tests.components.gate_records import BOX, jpeg, record, write
from trainer.anchors import SSD128, SSD300_FINE


def scan_of(folder, splits, fields=COMMON, leak_distance=40, matching_iou=0.5, others=None):
    """Scans records by split."""
    patterns = {
        split: str(write(folder / f"Split-{split}" / "data.gz", records))
        for split, records in splits.items()
    }
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    return scan(
        *(pipeline, patterns, fields, SSD128, matching_iou, leak_distance),
        str(folder / "found"),
        others,
    )


def leaks_of(found):
    """The number of differing bits by pair of record ids."""
    return {frozenset((leak.first[1], leak.second[1])): leak.distance for leak in found.leaks}


LEAKY = {
    "train": [
        record("a", encoded=jpeg(1)),
        record("b", encoded=jpeg(2, quality=60, size=(128, 96))),
        record("c", encoded=jpeg(3)),
        record("c again", encoded=jpeg(3)),  # a duplicate within a split is not a leak
    ],
    "eval": [record("d", encoded=jpeg(4))],
    "test": [
        record("e", encoded=jpeg(1)),
        record("f", encoded=jpeg(2)),
        record("g", encoded=jpeg(4)),
    ],
}


def test_pictures_in_two_splits_are_found_by_bytes_and_by_looks(tmp_path):
    found = scan_of(tmp_path, LEAKY)
    leaks = leaks_of(found)
    looks = leaks.pop(frozenset("bf"))
    assert leaks == {frozenset("ae"): None, frozenset("dg"): None}
    assert 0 <= looks <= 40
    assert {leak.first[0] for leak in found.leaks} | {leak.second[0] for leak in found.leaks} == {
        "train",
        "eval",
        "test",
    }
    assert found.problems == ()
    assert not (tmp_path / "found").exists(), "only for this"


def test_an_object_must_reach_the_matching_iou_with_an_anchor(tmp_path):
    records = {"train": [record("a", [("star", BOX), ("ring", (0.5, 0.5, 0.51, 0.51))])]}
    unmatchable = [
        scan_of(tmp_path / str(iou), records, matching_iou=iou).splits["train"].unmatchable
        for iou in (0.001, 0.5, 0.999)
    ]
    assert unmatchable == [0, 1, 2]


def test_unmatched_objects_are_counted_by_kind_and_for_other_anchors(tmp_path):
    small, wide = (0.5, 0.5, 0.56, 0.56), (0.5, 0.0, 0.56, 1.0)
    records = [record(f"{n}", [("star", BOX), ("ring", small), ("ring", wide)]) for n in range(3)]
    others = {"fine": SSD300_FINE, "own": SSD128}
    found = scan_of(tmp_path, {"train": records, "test": [record("none")]}, others=others).splits
    misfits = {"too small": 3, "too wide": 3}
    assert found["train"] == SplitFacts(9, 6, misfits, {"fine": 3, "own": 6})
    assert found["test"] == SplitFacts(of_others={"fine": 0, "own": 0})


@pytest.mark.parametrize("leak_distance", [-1, 40])
def test_a_picture_in_three_splits_leaks_three_times(tmp_path, leak_distance):
    splits = {name: [record(f"in {name}", encoded=jpeg(1))] for name in ("train", "eval", "test")}
    pairs = itertools.combinations(["in train", "in eval", "in test"], 2)
    found = leaks_of(scan_of(tmp_path, splits, leak_distance=leak_distance))
    assert found == dict.fromkeys(map(frozenset, pairs))


def test_leaks_by_bytes_only(tmp_path):
    found = scan_of(tmp_path, LEAKY, leak_distance=-1)
    assert leaks_of(found) == {frozenset("ae"): None, frozenset("dg"): None}


def test_problems_name_split_record_and_object(tmp_path):
    tiny = (0.5, 0.5, 0.51, 0.51)
    train = [
        record("a", [("star", BOX), ("ring", (0.5, 0.2, 0.4, 0.9)), ("star", BOX)]),
        record("b", [("ring", (0.5, 0.5, 0.7, 1.5)), ("ring", tiny)]),
        record("c", encoded=jpeg(9)[:300]),
        record("d", encoded=b""),
    ]
    found = scan_of(tmp_path, {"train": train, "test": [record("e")]})
    texts = {(p.check, p.split, p.record_id): p.text for p in found.problems}
    assert (
        texts.pop(("boxes", "train", "a"))
        == "object 2 (ring): box [0.5, 0.2, 0.4, 0.9] has no area"
    )
    assert "object 1 (ring)" in texts[("boxes", "train", "b")]
    assert texts.pop(("boxes", "train", "b")).endswith("reaches outside the picture")
    assert texts.pop(("duplicates", "train", "a")) == "objects 1 and 3 (star): IoU 1.000"
    assert texts.pop(("pictures", "train", "c")).startswith("cannot be decoded")
    assert texts.pop(("pictures", "train", "d")).startswith("cannot be decoded")
    assert texts == {}
    # The tiny one and the one mostly outside.
    misfits = {"too wide": 1, "too small": 1}
    assert found.splits == {"train": SplitFacts(4, 2, misfits), "test": SplitFacts(0, 0)}


def in_format(kind, mode="RGB"):
    """The picture `jpeg(1)` in another format."""
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1))).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (in_format("PNG"), "the picture is a PNG, not a JPEG. --reencode writes"),
        (in_format("GIF"), "the picture is a GIF, not a JPEG. --reencode writes"),
        (in_format("BMP"), "the picture is a BMP, not a JPEG. --reencode writes"),
        (in_format("WebP"), "the picture is a WebP, not a JPEG. --reencode writes"),
        (in_format("TIFF"), "the picture is a TIFF, not a JPEG. --reencode writes"),
        (in_format("JPEG", "CMYK"), "the JPEG is CMYK"),
    ],
    ids=["png", "gif", "bmp", "webp", "tiff", "cmyk"],
)
def test_pictures_the_trainer_cannot_read_are_problems(tmp_path, encoded, text):
    splits = {"train": [record("a"), record("b", encoded=encoded)], "test": [record("c")]}
    (problem,) = scan_of(tmp_path, splits).problems
    assert (problem.check, problem.split, problem.record_id) == ("pictures", "train", "b")
    assert problem.text.startswith(text)


def test_a_picture_with_an_exif_rotation_is_reported(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1))).save(file, "JPEG", exif=exif)
    splits = {"train": [record("a", encoded=file.getvalue())], "test": [record("b")]}
    (problem,) = scan_of(tmp_path, splits).problems
    assert (problem.check, problem.record_id) == ("orientation", "a")
    assert problem.text == "an EXIF tag rotates it (orientation 6)"


def test_a_grey_jpeg_is_not_a_problem(tmp_path):
    splits = {"train": [record("a", encoded=in_format("JPEG", "L"))], "test": [record("b")]}
    assert scan_of(tmp_path, splits).problems == ()


def test_hikapok_records_are_identified_by_filename(tmp_path):
    splits = {
        "train": [record("a.jpg", [("cat", BOX)], jpeg(1), HIKAPOK)],
        "test": [record("b.jpg", (), jpeg(1), HIKAPOK)],
    }
    assert leaks_of(scan_of(tmp_path, splits, HIKAPOK)) == {frozenset(("a.jpg", "b.jpg")): None}


def test_a_record_without_an_id_or_with_uneven_lists_does_not_crash(tmp_path):
    """Both are schema anomalies, which must still be listed."""
    bare = tf.train.Example()
    bare.features.feature[COMMON.text].bytes_list.value[:] = [b"star", b"ring"]
    bare.features.feature[COMMON.ymin].float_list.value[:] = [0.5]
    found = scan_of(tmp_path, {"train": [bare.SerializeToString()]})
    ((check, split, record_id),) = {(p.check, p.split, p.record_id) for p in found.problems}
    assert (check, split, record_id) == ("pictures", "train", "(no id)")

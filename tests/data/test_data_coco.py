"""COCO annotation files: what is read, what is refused, and the resulting records."""

import dataclasses
import json
import re
from pathlib import Path

import apache_beam as beam
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from apache_beam.options.pipeline_options import PipelineOptions

from components.data_gate.scan import scan
from data.coco import CocoSource, select_coco
from data.convert import convert as convert_voc
from data.convert import convert_coco, main
from data.errors import DataError
from data.fields import COMMON
from data.options import ConversionOptions
from data.schema import VOC_SCHEMA, class_names, read_schema
from data.voc import read_annotation, relative_boxes
from trainer.anchors import SSD300

_DOG = {"id": 1, "image_id": 1, "category_id": 18, "bbox": [10.5, 4, 20.25, 30], "iscrowd": 0}


def select(sources, **options):
    """`select_coco` with the options as keywords."""
    return select_coco(sources, ConversionOptions(**options))


def convert(source, output, **options):
    """`convert_coco` for a list of sources, else `convert`, with the options as keywords."""
    command = convert_coco if isinstance(source, list) else convert_voc
    return command(source, output, ConversionOptions(**options))


def _document(images=1, annotations=(_DOG,), categories=((18, "dog"), (3, "cat"))):
    return {
        "info": {"year": 2017},
        "images": [
            {"id": n, "file_name": f"{n:012d}.jpg", "width": 40, "height": 36, "license": 3}
            for n in range(1, images + 1)
        ],
        "annotations": [
            {"segmentation": [[1.5, 2.5, 3.5, 4.5]], "area": 1.0, **item} for item in annotations
        ],
        "categories": [
            {"id": number, "name": name, "supercategory": "animal"} for number, name in categories
        ],
    }


@pytest.fixture
def coco(tmp_path, make_jpeg):
    """Writes an annotation file and its pictures, and returns the source of both."""

    def coco(document=None, split="train", name=None, content=None):
        name = name or f"{split}2017"
        images = tmp_path / name
        images.mkdir(exist_ok=True)
        document = _document() if document is None else document
        for entry in document.get("images", []) if isinstance(document, dict) else []:
            if isinstance(entry, dict) and "/" not in (entry.get("file_name") or "/"):
                seed = hash((name, entry["file_name"])) % 2**32
                (images / entry["file_name"]).write_bytes(make_jpeg(seed=seed))
        path = tmp_path / f"instances_{name}.json"
        path.write_text(json.dumps(document) if content is None else content)
        return CocoSource(split, path, images)

    return coco


def _read(folder):
    """The records of a folder's splits by (split, file name)."""
    records = {}
    for path in sorted(folder.glob("*/*.gz")):
        for record in tf.data.TFRecordDataset(str(path), compression_type="GZIP"):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            values = {
                name: list(getattr(feature, feature.WhichOneof("kind")).value)
                for name, feature in features.items()
            }
            records[path.parent.name, values[COMMON.filename][0].decode()] = values
    return records


def test_boxes_names_and_ids(coco):
    crowd = {**_DOG, "id": 2, "category_id": 3, "bbox": [0, 0, 40, 36], "iscrowd": 1}
    selection, names = select([coco(_document(2, [_DOG, crowd]))])
    assert names == ("cat", "dog")
    assert selection.lists == {"train": ("instances_train2017.json",), "eval": (), "test": ()}
    first, second = selection.pictures
    assert selection.data_set == Path(first.folder).parent.name
    assert (first.source_id, first.split) == ("train2017/000000000001.jpg", "train")
    dog, cat = first.annotation.objects
    (box, whole) = relative_boxes([dog.box_px, cat.box_px], 40, 36)
    assert box.tolist() == pytest.approx([4 / 36, 10.5 / 40, 34 / 36, 30.75 / 40], abs=1e-7)
    assert whole.tolist() == [0, 0, 1, 1]
    assert (dog.difficult, dog.is_crowd, cat.difficult, cat.is_crowd) == (0, 0, 1, 1)
    assert second.annotation.objects == ()
    assert any("1 crowds count as difficult" in note for note in selection.notes)
    (without_box, _) = select([coco(_document(1, [{**_DOG, "bbox": None}]))])
    assert without_box.pictures[0].annotation.problems[0].of_object


def _without(key, of, **changed):
    document = _document()
    document[of][0].pop(key, None)
    document[of][0].update(changed)
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not COCO object annotations: no list of images, annotations, categories"),
        ({"images": [], "categories": []}, "no list of annotations. Give a file such as"),
        (_document(0, []), "the list of images is empty"),
        (_document(categories=[(1, "dog"), (2, "dog")]), "categories 1 and 2 are both 'dog'"),
        (_document(categories=[(1, "dog"), (1, "cat")]), "category 1 is both 'dog' and 'cat'"),
        (_document(categories=[(None, "dog")]), r"categories\[0\]: id is None. Write a number"),
        (_without("id", "images"), r"images\[0\]: id is None"),
        (_without("", "images", file_name=""), r"images\[0\]: file_name is ''"),
        ({**_document(), "images": [3]}, r"images\[0\] is 3, not an object"),
    ],
)
def test_invalid_documents(coco, document, message):
    source = coco(document)
    with pytest.raises(DataError, match=message) as error:
        select([source])
    assert str(source.annotations) in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "hello", "[" * 100_000])
def test_not_json(coco, content):
    with pytest.raises(DataError, match=r"instances_train2017\.json: not JSON"):
        select([coco(content=content)])


def test_a_file_from_windows(coco):
    selection, _ = select([coco(content="\ufeff" + json.dumps(_document()))])
    assert len(selection.pictures) == 1


def test_missing_files(coco, tmp_path):
    source = coco()
    nowhere = dataclasses.replace(source, annotations=tmp_path / "none.json")
    with pytest.raises(DataError, match=r"none\.json: cannot read the annotations \(No such file"):
        select([nowhere])
    with pytest.raises(DataError, match="none: no such folder. Give the pictures' folder"):
        select([dataclasses.replace(source, images=tmp_path / "none")])
    with pytest.raises(DataError, match="nothing to train on.*train=FILE"):
        select([coco(split="test")])


def test_files_need_the_same_categories(coco):
    other = coco(_document(1, [], [(18, "cat")]), split="test")
    with pytest.raises(DataError, match="category 18 is 'cat', but 'dog' before"):
        select([coco(), other])


def _broken(make_jpeg, images):
    """Unusable pictures, made from good ones, and the message for each."""
    boxes = {
        1: ([5, 5, 0, 9], r"annotation 1 \(dog\) of 0+1\.jpg: bbox \[5, 5, 0, 9\] has no area"),
        2: ([5, 5, 9, -1], "annotation 2 .* has no area"),
        3: ([30, 5, 11, 9], "xmin 30, ymin 5, xmax 41, ymax 14 in 40 x 36 pixels"),
        4: ([-1, 5, 11, 9], "xmin -1, ymin 5"),
        5: ([1, 2, 3], "is not x, y, width and height"),
        6: ([1, 2, 3, "x"], "is not x, y, width and height"),
    }
    document = _document(
        12, [{**_DOG, "id": n, "image_id": n, "bbox": box} for n, (box, _) in boxes.items()]
    )
    document["images"][6]["width"] = 48

    def path(number):
        return images / f"{number:012d}.jpg"

    def spoil():
        path(8).unlink()
        path(9).write_bytes(make_jpeg(mode="CMYK"))
        path(10).write_bytes(b"\x89PNG\r\n\x1a\n")

    messages = {n: message for n, (_, message) in boxes.items()} | {
        7: r"image 7 \(000000000007\.jpg\): states 48 x 36 pixels, the picture has 40 x 36",
        8: r"000000000008\.jpg: no such picture",
        9: "the JPEG is CMYK",
        10: "the picture is a PNG",
    }
    return document, messages, spoil


def test_unusable_pictures_are_left_out_on_request(tmp_path, coco, make_jpeg):
    document, messages, spoil = _broken(make_jpeg, tmp_path / "train2017")
    sources = [coco(document)]
    # Narrower than a pixel, and less than a pixel over the border: both are valid boxes.
    thin = [{**_DOG, "bbox": [5, 5, 0.25, 9]}, {**_DOG, "id": 2, "bbox": [30, -0.5, 10.5, 9]}]
    sources.append(coco(_document(1, thin), "test"))
    spoil()
    (tmp_path / "train2017" / f"{11:012d}.jpg").write_bytes(make_jpeg(mode="L"))

    with pytest.raises(DataError, match="10 of 13 pictures cannot be used.*nothing was written"):
        convert(sources, tmp_path / "out", eval_fraction=0)
    assert not (tmp_path / "out").exists()

    report = convert(sources, tmp_path / "out", eval_fraction=0, on_error="skip", allow_empty=True)
    rows = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    rejected = {row["source_id"]: "\n".join(row["problems"]) for row in rows}
    assert rejected.keys() == {f"train2017/{n:012d}.jpg" for n in messages}
    for number, message in messages.items():
        assert re.search(message, rejected[f"train2017/{number:012d}.jpg"])
    records = _read(tmp_path / "out")
    assert records.keys() == {
        ("train", "000000000011.jpg"),
        ("train", "000000000012.jpg"),
        ("test", "000000000001.jpg"),
    }
    assert report.rejected == 10
    test = records["test", "000000000001.jpg"]
    assert test[COMMON.xmin] == pytest.approx([5 / 40, 30 / 40])
    assert test[COMMON.xmax] == pytest.approx([5.25 / 40, 1])
    assert test[COMMON.ymin] == pytest.approx([5 / 36, 0])


@pytest.mark.parametrize("on_error", ["skip", "skip-object"])
def test_a_picture_listed_twice_can_be_left_out(tmp_path, coco, on_error):
    # Either entry may lack some of its objects.
    document = _document(3, [{**_DOG, "id": n, "image_id": n} for n in (1, 2, 3)])
    document["images"][1]["file_name"] = document["images"][0]["file_name"]
    source = coco(document)
    assert select([source])[0].pictures[0].annotation.objects == ()
    with pytest.raises(DataError, match=r"image 1 \(0+1\.jpg\) and .*: image 2 \(0+1\.jpg\) are"):
        convert([source], tmp_path / "out", eval_fraction=0)
    report = convert([source], tmp_path / "out", eval_fraction=0, on_error=on_error)
    assert (report.pictures, report.rejected) == (2, 1)
    assert _read(tmp_path / "out").keys() == {("train", "000000000003.jpg")}


def test_one_picture_in_two_files(tmp_path, coco):
    first, second = coco(name="train"), coco(name="more")
    again = dataclasses.replace(second, images=first.images)
    with pytest.raises(DataError, match="train.json: image 1 .* and .*more.json: image 1 .* are"):
        convert([first, again], tmp_path / "out", eval_fraction=0)
    leak = "train/0+1.jpg: listed for train, but test has it too"
    with pytest.raises(DataError, match=leak):
        test = dataclasses.replace(again, split="test")
        convert([first, test], tmp_path / "out", eval_fraction=0)


def test_a_category_does_not_group_itself(coco):
    document = _document()
    for entry in document["categories"]:
        entry["supercategory"] = entry["name"]
    assert select([coco(document)])[1] == ("cat", "dog")


@pytest.mark.parametrize(("word", "crowd"), [("true", True), ("False", False), (" 1 ", True)])
def test_crowds_in_words(coco, word, crowd):
    selection, _ = select([coco(_document(1, [{**_DOG, "iscrowd": word}]))])
    assert selection.pictures[0].annotation.objects[0].is_crowd is crowd


def test_command_line(tmp_path, coco, capsys):
    train, test = coco(_document(3)), coco(split="test")
    arguments = ["--output", str(tmp_path / "out"), "--eval-fraction", "0"]
    for source in (train, test):
        arguments += ["--coco-annotations", f"{source.split}={source.annotations}"]
    assert main([*arguments, "--images", str(train.images), "--images", str(test.images)]) == 0
    assert "train: 3 pictures of instances_train2017.json" in capsys.readouterr().out
    assert len(_read(tmp_path / "out")) == 4
    classes = class_names(read_schema(tmp_path / "out" / "schema.pbtxt"))
    assert classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coco-annotations", "a.json"], "1 --coco-annotations but 0 --images"),
        (
            ["--coco-annotations", "a.json", "--coco-annotations", "test=b", "--images", "c"],
            "--coco-annotations a.json: with several files, name the split of each: train=FILE",
        ),
        (["--coco-annotations", "a.json", "--images", "c", "--train", "x"], "need --voc"),
        (["--voc", "a", "--schema", "b", "--classes", "c"], "--schema or --classes, not both"),
        (["--voc", "a", "--images", "c"], "--images needs --coco-annotations"),
        (["--voc", "a", "--coco-annotations", "a.json"], "not allowed with argument --voc"),
    ],
)
def test_invalid_command_lines(tmp_path, capsys, arguments, message):
    try:
        status = main([*arguments, "--output", str(tmp_path / "out")])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_classes_can_be_named(tmp_path, coco):
    sources = [coco(), coco(split="test")]
    convert(sources, tmp_path / "out", classes=["emu", "dog"], eval_fraction=0)
    assert _read(tmp_path / "out")["train", "000000000001.jpg"][COMMON.label] == [2]
    with pytest.raises(DataError, match=r"image 1 .*: object 1 \(dog\): not one of the 1 classes"):
        convert(sources, tmp_path / "other", classes=["emu"], eval_fraction=0)


@pytest.fixture(scope="module")
def both(tmp_path_factory, voc_fixtures):
    """Real VOC pictures converted directly, and by way of COCO annotations.

    Difficult objects become crowds, so that the records must be equal.
    """
    folder = tmp_path_factory.mktemp("both")
    year = voc_fixtures / "voc2007_300" / "VOCdevkit" / "VOC2007"
    copy = folder / "VOCdevkit" / "VOC2007"
    (copy / "ImageSets" / "Main").mkdir(parents=True)
    classes = class_names(read_schema(VOC_SCHEMA))
    for name in ("Annotations", "JPEGImages"):
        (copy / name).symlink_to(year / name)
    sources = []
    for split, image_set in (("train", "trainval"), ("test", "test")):
        ids = (year / "ImageSets" / "Main" / f"{image_set}.txt").read_text().split()[:40]
        (copy / "ImageSets" / "Main" / f"{image_set}.txt").write_text("\n".join(ids))
        path = folder / f"instances_{split}.json"
        path.write_text(json.dumps(_as_coco([year / "Annotations" / f"{i}.xml" for i in ids])))
        sources.append(CocoSource(split, path, year / "JPEGImages"))
    convert(folder, folder / "voc", eval_fraction=0.2)
    convert(sources, folder / "coco", eval_fraction=0.2)
    return folder / "voc", folder / "coco", classes


def _as_coco(paths: list[Path]) -> dict:
    classes = class_names(read_schema(VOC_SCHEMA))
    document = {"images": [], "annotations": []}
    # Ids with gaps, as in COCO, in the order of the names.
    document["categories"] = [{"id": 3 * n + 1, "name": name} for n, name in enumerate(classes)]
    for number, path in enumerate(paths):
        annotation = read_annotation(path)
        document["images"].append(
            {
                "id": number,
                "file_name": f"{path.stem}.jpg",
                "width": annotation.width,
                "height": annotation.height,
            }
        )
        for item in annotation.objects:
            xmin, ymin, xmax, ymax = item.box_px
            document["annotations"].append(
                {
                    "id": len(document["annotations"]),
                    "image_id": number,
                    "category_id": 3 * classes.index(item.name) + 1,
                    "bbox": [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1],
                    "iscrowd": int(item.difficult),
                    "segmentation": [],
                }
            )
    return document


def test_records_equal_those_from_voc(both):
    voc, coco = _read(both[0]), _read(both[1])
    assert voc.keys() == coco.keys()
    assert len(voc) == 80
    for key, expected in voc.items():
        found = coco[key]
        assert found.pop(COMMON.source_id) == [f"JPEGImages/{key[1]}".encode()]
        assert expected.pop(COMMON.source_id)
        # COCO has no truncated and occluded flags.
        for name in (COMMON.truncated, COMMON.occluded):
            assert found.pop(name) == [0] * len(expected.pop(name))
        assert found.pop(COMMON.is_crowd) == expected[COMMON.difficult]
        for name in (COMMON.ymin, COMMON.xmin, COMMON.ymax, COMMON.xmax):
            assert found.pop(name) == pytest.approx(expected.pop(name), abs=1e-7)
        assert found == expected


@pytest.mark.slow
def test_records_pass_the_checks_of_the_pipeline(both, tmp_path):
    folder = both[1]
    schema = read_schema(folder / "schema.pbtxt")
    assert class_names(schema) == both[2]
    for split in ("train", "eval", "test"):
        statistics = tfdv.generate_statistics_from_tfrecord(
            str(folder / split / "*"),
            stats_options=tfdv.StatsOptions(schema=schema),
            pipeline_options=PipelineOptions(["--runner=FnApiRunner"]),
        )
        assert not tfdv.validate_statistics(statistics, schema).anomaly_info
    patterns = {split: str(folder / split / "*") for split in ("train", "eval", "test")}
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    found = scan(pipeline, patterns, COMMON, SSD300, 0.5, 6, str(tmp_path / "found"))
    assert not found.leaks
    assert {problem.check for problem in found.problems} <= {"duplicates"}
    assert sum(facts.objects for facts in found.splits.values()) > 100

import hashlib
import json

import pytest

from data.beam_runner import beam_arguments
from data.convert import main
from data.errors import DataError
from data.fields import COMMON
from data.report import Count
from data.schema import class_names, read_schema
from data.voc import read_annotation
from tests.data.converting import convert, files_in, read_records, sources_of

_LISTS = {"eval": ["VOC2007/val"], "classes": ["cat", "dog"]}


def test_writes_splits_and_report(tmp_path, voc_root, voc_year, make_xml):
    flag = "<difficult>1</difficult>"
    dog = ("dog", (1, 1, 9, 9))
    voc_year.add("000001", make_xml([dog, dog, ("cat", (1, 1, 9, 9)), (*dog, flag)]))
    voc_year.add("000002", make_xml([]))
    output = tmp_path / "deep" / "records"

    report = convert(voc_root, output, **_LISTS)

    assert sorted(sources_of(output / "train")) == ["VOC2007/000001", "VOC2007/000002"]
    assert sources_of(output / "eval") == ["VOC2007/000003"]
    assert sources_of(output / "test") == ["VOC2007/000004"]
    saved = json.loads((output / "report.json").read_text())
    assert saved["data_set"] == voc_root.name
    assert (report.pictures, report.rejected) == (saved["pictures"], saved["rejected"]) == (4, 0)
    assert saved["splits"]["train"] == {
        "total": {"images": 2, "objects": 3, "difficult": 1},
        "classes": {
            "cat": {"images": 1, "objects": 1, "difficult": 0},
            "dog": {"images": 1, "objects": 2, "difficult": 1},
        },
    }
    assert sorted(path.name for path in output.iterdir()) == [
        "eval",
        "report.json",
        "schema.pbtxt",
        "test",
        "train",
    ]
    assert class_names(read_schema(output / "schema.pbtxt")) == ("cat", "dog")
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.e2e
def test_same_bytes_with_more_worker_processes(tmp_path, voc_root, voc_year):
    voc_year.write_list("trainval", [voc_year.add(f"{n:06d}") for n in range(10, 30)])
    convert(voc_root, tmp_path / "one", **_LISTS)
    parallel = beam_arguments("multiprocess", ["--direct_num_workers=2"])
    convert(voc_root, tmp_path / "two", beam_options=parallel, **_LISTS)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")


def test_the_order_depends_only_on_the_seed(tmp_path, voc_root, voc_year):
    ids = [voc_year.add(f"{n:06d}") for n in range(10, 40)]
    orders = []
    for number, (listed, seed) in enumerate([(ids, 0), (ids[::-1], 0), (ids, 1)]):
        voc_year.write_list("trainval", listed)
        convert(voc_root, tmp_path / str(number), seed=seed, **_LISTS)
        orders.append(sources_of(tmp_path / str(number) / "train"))
    assert sorted(orders[0]) == [f"VOC2007/{image_id}" for image_id in ids]
    assert orders[0] != sorted(orders[0])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(orders[0])


def test_many_pictures_go_to_several_shards(tmp_path, voc_root, voc_year, monkeypatch):
    monkeypatch.setattr("data.conversion._PICTURES_PER_SHARD", 10)
    ids = [voc_year.add(f"{n:06d}") for n in range(10, 70)]
    voc_year.write_list("trainval", ids)
    report = convert(voc_root, tmp_path / "out", **_LISTS)
    assert report.splits["train"].total == report.splits["train"].classes["dog"] == Count(60, 60, 0)
    names = sorted(path.name for path in (tmp_path / "out" / "train").iterdir())
    assert names == [f"train-{n:05d}-of-00006.tfrecord.gz" for n in range(6)]
    assert sorted(sources_of(tmp_path / "out" / "train")) == [f"VOC2007/{n}" for n in ids]


def _break_everything(year, make_jpeg, make_xml):
    """Adds one picture for each possible problem; returns the expected messages."""
    png = b"\x89PNG\r\n\x1a\n"
    dog = "<object><name>dog</name></object>"
    bomb = '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'
    pictures = {
        "no_xml": ({"xml": None}, "no_xml.xml: the annotation does not exist"),
        "no_jpeg": ({"jpeg": None}, "no_jpeg.jpg: no such picture"),
        "not_xml": ({"xml": "hello"}, "not_xml.xml: not XML"),
        "bomb": ({"xml": bomb}, "bomb.xml: declares XML entities"),
        "nested": ({"xml": f"<annotation><objects>{dog}</objects></annotation>"}, "in <objects>"),
        "unknown": ({"xml": make_xml([("cow", (1, 1, 2, 2))])}, "object 1 (cow): not one of"),
        "far_box": (
            {"xml": make_xml([("dog", (1, 1, 99, 9))])},
            "object 1 (dog): xmin 1, ymin 1, xmax 99, ymax 9 in 40 x 36",
        ),
        "no_area": (
            {"xml": make_xml([("dog", (9, 1, 3, 9))])},
            "object 1 (dog): the box has no area: xmin 9 > xmax 3",
        ),
        "size": ({"xml": make_xml(width=99)}, "states 99 x 36 pixels, the picture has 40 x 36"),
        "cut": ({"jpeg": make_jpeg()[:-30]}, "cut.jpg: the JPEG is truncated"),
        "png": ({"jpeg": png}, "png.jpg: the picture is a PNG"),
        "cmyk": ({"jpeg": make_jpeg(mode="CMYK")}, "cmyk.jpg: the JPEG is CMYK"),
    }
    for image_id, (files, _) in pictures.items():
        year.add(image_id, **files)
    year.write_list("trainval", ["000001", *pictures, "000002"])
    return {f"VOC2007/{image_id}": message for image_id, (_, message) in pictures.items()}


def test_fail_lists_every_problem_and_writes_nothing(
    tmp_path, voc_root, voc_year, make_jpeg, make_xml
):
    expected = _break_everything(voc_year, make_jpeg, make_xml)
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"12 of 16 pictures cannot be used") as error:
        convert(voc_root, tmp_path / "out", **_LISTS)
    # There are at most two of each kind, so all are shown as examples.
    for message in (*expected.values(), "--on-error=skip", "--reencode"):
        assert message in str(error.value)
    assert set(tmp_path.iterdir()) == before


def test_skip_writes_the_rest_and_lists_the_rejected(
    tmp_path, voc_root, voc_year, make_jpeg, make_xml
):
    expected = _break_everything(voc_year, make_jpeg, make_xml)
    output = tmp_path / "out"
    report = convert(voc_root, output, on_error="skip", **_LISTS)

    rejected = {
        row["source_id"]: row
        for row in map(json.loads, (output / "rejected.jsonl").read_text().splitlines())
    }
    assert rejected.keys() == expected.keys()
    assert not any(row["kept"] for row in rejected.values())
    for source_id, message in expected.items():
        assert rejected[source_id]["split"] == "train"
        assert message in "\n".join(rejected[source_id]["problems"])
    assert sorted(sources_of(output / "train")) == ["VOC2007/000001", "VOC2007/000002"]
    written = sum(split.total.images for split in report.splits.values())
    assert report.pictures == written + report.rejected == 16


@pytest.mark.parametrize(
    ("listed", "name"), [("000001", "000001.JPG"), ("000001", "000001.jpeg"), ("000001.jpg", "")]
)
def test_extensions_do_not_matter(tmp_path, voc_root, voc_year, listed, name):
    pictures = voc_year.folder / "JPEGImages"
    (pictures / "000001.jpg").rename(pictures / (name or "000001.jpg"))
    voc_year.write_list("trainval", [listed])
    convert(voc_root, tmp_path / "out", **_LISTS)
    assert sources_of(tmp_path / "out" / "train") == ["VOC2007/000001"]


def test_many_problems_of_a_kind_are_counted_with_two_examples(tmp_path, voc_root, voc_year):
    lost = [voc_year.add(f"{n:06d}", xml=None) for n in range(10, 40)]
    voc_year.write_list("trainval", [*lost, voc_year.add("000050", jpeg=b"no picture")])
    with pytest.raises(DataError) as error:
        convert(voc_root, tmp_path / "out", **_LISTS)
    lines = str(error.value).splitlines()
    assert lines[0] == "31 of 33 pictures cannot be used, so nothing was written:"
    assert lines[1] == "  30 pictures: there is no annotation"
    assert sum("does not exist" in line for line in lines) == 2
    assert "  1 picture: the picture cannot be decoded" in lines[4:]


def test_skipping_a_whole_split_is_an_error(tmp_path, voc_root, voc_year):
    voc_year.add("000004", xml="broken")
    with pytest.raises(DataError, match="no picture is left for test"):
        convert(voc_root, tmp_path / "out", on_error="skip", **_LISTS)
    assert not (tmp_path / "out").exists()


def test_existing_output_is_left_alone(tmp_path, voc_root, voc_year):
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious").write_text("data")
    with pytest.raises(
        DataError, match="out: exists already. Give another --output, or --overwrite"
    ):
        convert(voc_root, output, **_LISTS)
    assert files_in(output) == {"precious": b"data"}


def test_empty_output_folder_is_fine(tmp_path, voc_root, voc_year):
    (tmp_path / "out").mkdir()
    convert(voc_root, tmp_path / "out", **_LISTS)
    assert (tmp_path / "out" / "report.json").exists()


def test_outputs_that_cannot_be_replaced_or_read(tmp_path, voc_root, voc_year, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match=r"^\.: the current folder or a mount.*--output records"):
        convert(voc_root, ".", **_LISTS)
    with pytest.raises(DataError, match=r"out \[1\]: Beam and TFX read \[ in a path as a pattern"):
        convert(voc_root, tmp_path / "out [1]", **_LISTS)


def test_a_link_to_an_empty_folder_is_followed(tmp_path, voc_root, voc_year):
    (tmp_path / "disk").mkdir()
    (tmp_path / "мой диск").symlink_to(tmp_path / "disk")
    convert(voc_root, tmp_path / "мой диск", **_LISTS)
    assert (tmp_path / "disk" / "report.json").exists()


def test_an_earlier_output_is_replaced_on_request(tmp_path, voc_root, voc_year):
    output = tmp_path / "out"
    convert(voc_root, output, **_LISTS)
    before = files_in(output)
    voc_year.add("000002", xml="broken")
    with pytest.raises(DataError, match="1 of 4 pictures"):
        convert(voc_root, output, overwrite=True, **_LISTS)
    assert files_in(output) == before
    convert(voc_root, output, overwrite=True, on_error="skip", **_LISTS)
    assert sources_of(output / "train") == ["VOC2007/000001"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    (output / "schema.pbtxt").unlink()
    with pytest.raises(DataError, match="not a conversion's output"):
        convert(voc_root, output, overwrite=True, on_error="skip", **_LISTS)
    assert (output / "report.json").exists()


def test_bad_objects_are_left_out_and_their_pictures_kept(tmp_path, voc_root, voc_year, make_xml):
    far = ("dog", (1, 1, 99, 9))
    voc_year.add("000001", make_xml([("dog", (1, 1, 9, 9)), far, ("cow", (1, 1, 9, 9)), far]))
    with pytest.raises(DataError) as error:
        convert(voc_root, tmp_path / "out", **_LISTS)
    lines = str(error.value).splitlines()
    assert lines[1] == "  1 object in 1 picture: the class is not in the list of classes"
    assert "  2 objects in 1 picture: the box extends outside the picture" in lines
    assert "Or leave only these objects out with --on-error=skip-object" in " ".join(lines)

    report = convert(voc_root, tmp_path / "out", on_error="skip-object", **_LISTS)
    (row,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (row["source_id"], row["kept"], len(row["problems"])) == ("VOC2007/000001", True, 3)
    assert report.rejected == 0
    assert report.splits["train"].total == Count(2, 2, 0)
    assert "  2 objects in 1 picture: the box extends outside the picture" in report.lines()


def test_changes_are_counted(tmp_path, voc_root, voc_year, make_xml, make_jpeg):
    voc_year.add("000001", make_xml(width=41))
    voc_year.add("000002", make_xml(width=0))
    voc_year.add("000003", make_xml(width=80, height=72), make_jpeg(mode="CMYK"))
    report = convert(voc_root, tmp_path / "out", rescale=True, reencode=True, **_LISTS)
    saved = json.loads((tmp_path / "out" / "report.json").read_text())["settled"]
    assert saved == report.settled
    assert sorted(saved.values()) == [1, 1, 1, 1]
    for text in ("off by one", "not stated", "scaled", "CMYK"):
        assert sum(text in change for change in saved) == 1


@pytest.mark.slow
def test_classes_found_are_listed_with_their_counts(tmp_path, voc_root, voc_year, make_xml):
    voc_year.add("000001", make_xml([("ant nest", (1, 1, 9, 9)), ("dog", (1, 1, 9, 9))] * 2))
    with pytest.raises(DataError) as error:
        convert(voc_root, tmp_path / "out", eval=["VOC2007/val"])
    lines = str(error.value).splitlines()
    assert "Classes found: dog (5), ant nest (2)" in lines
    assert "  --classes 'ant nest' dog" in lines
    assert "  --other-classes ignore" in lines

    convert(voc_root, tmp_path / "auto", eval=["VOC2007/val"], classes=["auto"])
    assert class_names(read_schema(tmp_path / "auto" / "schema.pbtxt")) == ("ant nest", "dog")
    report = convert(voc_root, tmp_path / "some", other_classes="ignore", **_LISTS)
    assert report.splits["train"].total == Count(2, 3, 0)
    assert report.settled == {"object of another class ignored": 2}


@pytest.mark.parametrize(
    "options", [{}, {"on_error": "skip"}, {"on_error": "skip-object"}, {"other_classes": "ignore"}]
)
def test_a_class_list_that_fits_no_object(tmp_path, voc_root, voc_year, options):
    with pytest.raises(DataError) as error:
        convert(voc_root, tmp_path / "out", classes=["emu"], **options)
    assert "None of them is in the class list: emu" in str(error.value)
    assert "Classes found: dog (3)" in str(error.value)
    # None of these options would help.
    for option in ("--eval-fraction", "--on-error", "--other-classes"):
        assert option not in str(error.value)


@pytest.mark.slow
def test_a_data_set_that_counts_from_0_gets_a_hint(tmp_path, voc_root, voc_year, make_xml):
    voc_year.add("000001", make_xml([("dog", (0, 4, 9, 9))] * 5))
    hint = "5 boxes start at pixel 0 and none at pixel 1: this data set counts from 0"
    with pytest.raises(DataError, match=hint):
        convert(voc_root, tmp_path / "out", **_LISTS)
    report = convert(voc_root, tmp_path / "out", on_error="skip", **_LISTS)
    assert any(hint in note for note in report.notes)
    report = convert(voc_root, tmp_path / "zero", pixels_from=0, **_LISTS)
    assert not any("start at pixel" in note for note in report.notes)
    # If some boxes start at 1, those at 0 are mistakes.
    voc_year.add("000002", make_xml([("dog", (1, 4, 9, 9))]))
    report = convert(voc_root, tmp_path / "mixed", on_error="skip", **_LISTS)
    assert not any("start at pixel" in note for note in report.notes)


def test_command_line(tmp_path, voc_root, voc_year, capsys):
    arguments = ["--voc", str(voc_root), "--output", str(tmp_path / "out"), "--classes", "dog"]
    assert main([*arguments, "--eval", "VOC2007/val", "--", "--direct_num_workers=1"]) == 0
    out, err = capsys.readouterr()
    assert "train: 2 pictures of VOC2007/trainval" in out
    assert "dog" in out
    assert "write: 4 of 4 pictures" in err

    assert main([*arguments, "--eval", "VOC2007/val"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert "exists already" in err
    assert "Traceback" not in err


def test_stray_words_do_not_reach_beam(tmp_path, capsys):
    assert main(["--voc", "a", "--output", str(tmp_path / "b"), "stray"]) == 2
    assert "error: stray: not an option" in capsys.readouterr().err


def test_real_voc2007(tmp_path, voc_fixtures):
    root = voc_fixtures / "voc2007_300"
    report = convert(root, tmp_path / "out")

    totals = {split: counts.total for split, counts in report.splits.items()}
    assert totals["test"].images == 100
    assert totals["train"].images + totals["eval"].images == 200
    annotations = {
        path.stem: read_annotation(path)
        for path in (root / "VOCdevkit" / "VOC2007" / "Annotations").iterdir()
    }
    flags = [item.difficult for each in annotations.values() for item in each.objects]
    assert sum(total.objects for total in totals.values()) == flags.count(False)
    assert sum(total.difficult for total in totals.values()) == flags.count(True)

    examples = [example for split in totals for example in read_records(tmp_path / "out" / split)]
    assert len(examples) == 300
    for example in examples:
        image_id = example[COMMON.source_id][0].decode().removeprefix("VOC2007/")
        jpeg = root / "VOCdevkit" / "VOC2007" / "JPEGImages" / f"{image_id}.jpg"
        assert example[COMMON.encoded] == [jpeg.read_bytes()]
        assert example[COMMON.sha256] == [hashlib.sha256(jpeg.read_bytes()).hexdigest().encode()]
        annotation = annotations[image_id]
        height, width = annotation.height, annotation.width
        assert (example[COMMON.height], example[COMMON.width]) == ([height], [width])
        for item, ymin, xmin, ymax, xmax in zip(
            annotation.objects,
            *(example[name] for name in (COMMON.ymin, COMMON.xmin, COMMON.ymax, COMMON.xmax)),
            strict=True,
        ):
            back = (xmin * width + 1, ymin * height + 1, xmax * width, ymax * height)
            assert back == pytest.approx(item.box_px, abs=1e-3)


def test_real_voc2012(tmp_path, voc_fixtures):
    report = convert(
        voc_fixtures / "voc2012_100" / "VOCdevkit", tmp_path / "out", eval_fraction=0.1
    )
    assert set(report.splits) == {"train", "eval"}
    total = report.splits["train"].total + report.splits["eval"].total
    assert total.images == 100
    assert report.lists["train"] == ("VOC2012/trainval",)
    assert any("no VOC2007/test" in note for note in report.notes)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("--output", "gs://b/records"), ("--voc", "s3://b/VOC"), ("--schema", "gs://b/s.pbtxt")],
        *[("--images", "gs://b/train2017"), ("--coco-annotations", "train=gs://b/i.json")],
    ],
)
def test_urls_are_refused_and_nothing_is_written(option, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = () if option == "--coco-annotations" else ("--voc", "VOC")
    with pytest.raises(SystemExit) as stopped:
        main([*source, "--output", "records", option, value])
    assert stopped.value.code == 2
    assert f"{option}: {value} is a URL. Give a path on this machine" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

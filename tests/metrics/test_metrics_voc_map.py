"""The voc_map command line: a published evaluation, small folders, and bad input."""

import json
import math
import subprocess
import sys
import tarfile

import pytest

from data.errors import DataError
from metrics import voc_map

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


@pytest.fixture(scope="session")
def voc2007_oracle(voc_fixtures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc2007_oracle")
    for archive in ("annotations_and_lists", "detections"):
        path = voc_fixtures / "oracles" / "voc2007_test" / f"{archive}.tar.xz"
        with tarfile.open(path) as packed:
            packed.extractall(folder, filter="data")
    expected = voc_fixtures / "oracles" / "voc2007_test" / "expected_ap.json"
    return folder, json.loads(expected.read_text())


@pytest.mark.slow
def test_published_voc2007_numbers(voc2007_oracle):
    folder, expected = voc2007_oracle
    voc2007 = folder / "VOC2007"
    result, warnings = voc_map.evaluate_folders(
        voc2007 / "Annotations", voc2007 / "ImageSets" / "Main" / "test.txt", folder / "results"
    )
    assert warnings == []
    assert result.map_11_point == pytest.approx(expected["published_voc07_11pt_mAP"], abs=1e-9)
    assert result.map_area == pytest.approx(expected["recomputed_area_mAP"], abs=1e-6)
    assert list(result.classes) == sorted(expected["published_voc07_11pt"])
    for name, row in result.classes.items():
        assert round(row.ap_11_point, 6) == expected["published_voc07_11pt"][name]
        assert round(row.ap_area, 4) == expected["recomputed"][name]["area"]
        assert row.positives == expected["recomputed"][name]["npos"]
        assert row.detections == expected["recomputed"][name]["dets"]


@pytest.fixture
def folders(tmp_path):
    """Two pictures: a cat, a dog found twice, and a difficult cat; one false cat."""
    (tmp_path / "xml").mkdir()
    (tmp_path / "found").mkdir()
    pictures = {
        "000001": [("cat", 0, 1, 1, 10, 10), ("dog", 0, 21, 1, 30, 10)],
        "000002": [("cat", 1, 1, 1, 10, 10)],
    }
    for image_id, objects in pictures.items():
        body = "".join(OBJECT.format(*item) for item in objects)
        # Only what is difficult counts.
        body = body.replace("</object>", "<truncated>perhaps</truncated></object>")
        (tmp_path / "xml" / f"{image_id}.xml").write_text(f"<annotation>{body}</annotation>")
    (tmp_path / "list.txt").write_text("000001\n000002\n")
    (tmp_path / "found" / "comp4_det_test_cat.txt").write_text(
        "000002 0.9 1 1 10 10\n000001 0.8 50 50 60 60\n\n000001 0.7 1 1 10 10\n"
    )
    (tmp_path / "found" / "comp4_det_test_dog.txt").write_text(
        "000001 0.9 21.0 1 30 10\n000001 0.5 21 1 30 10\n"
    )
    return tmp_path


def evaluate(folders):
    return voc_map.evaluate_folders(folders / "xml", folders / "list.txt", folders / "found")


def command_line(monkeypatch, capsys, folders, *options):
    paths = {"annotations": "xml", "image-set": "list.txt", "detections": "found"}
    arguments = [f"--{name}={folders / path}" for name, path in paths.items()]
    monkeypatch.setattr(sys, "argv", ["voc_map", *arguments, *options])
    status = voc_map.main()
    return status, *capsys.readouterr()


def test_known_numbers_of_a_small_folder(folders):
    result, warnings = evaluate(folders)
    cat, dog = result.classes["cat"], result.classes["dog"]
    assert (cat.positives, cat.detections, cat.hits.tolist()) == (1, 3, [False, True])
    assert (dog.positives, dog.detections, dog.hits.tolist()) == (1, 2, [True, False])
    assert (cat.ap_11_point, dog.ap_11_point) == (0.5, 1.0)
    assert warnings == []


@pytest.mark.parametrize(("xmax", "ap"), [(5, 0.0), (6, 1.0)])
def test_iou_counts_the_last_pixel_and_must_exceed_a_half(folders, xmax, ap):
    """Columns 1-5 of 1-10 are exactly half the box, 1-6 are more."""
    (folders / "found" / "comp4_det_test_cat.txt").write_text(f"000001 0.9 1 1 {xmax} 10\n")
    assert evaluate(folders)[0].classes["cat"].ap_area == ap


@pytest.mark.parametrize(
    ("year", "key", "cat"),
    [("2007", "AP_11_point", (6 + 5 * 2 / 3) / 11), ("2012", "AP_area", (1 + 2 / 3) / 2)],
)
def test_json_has_full_precision(folders, monkeypatch, capsys, year, key, cat):
    # With both cats to find, the two rules differ.
    path = folders / "xml" / "000002.xml"
    path.write_text(path.read_text().replace("<difficult>1", "<difficult>0"))
    (folders / "found" / "comp4_det_test_owl.txt").write_text("")
    status, out, err = command_line(monkeypatch, capsys, folders, "--year", year, "--json")
    document = json.loads(out)
    result, warnings = evaluate(folders)
    assert status == 0
    assert document["year"] == int(year)
    assert document["mAP"] == document[f"m{key}"] == pytest.approx((cat + 1) / 2)
    assert document["classes"]["cat"]["AP"] == document["classes"]["cat"][key] == pytest.approx(cat)
    assert document["mAP_area"] == result.map_area
    assert document["classes"]["cat"]["AP_11_point"] == result.classes["cat"].ap_11_point
    assert document["classes"]["owl"]["AP"] is None and math.isnan(
        result.classes["owl"].ap_11_point
    )
    assert document["warnings"] == warnings
    _, table, _ = command_line(monkeypatch, capsys, folders, "--year", year)
    assert f"VOC{year}" in table
    assert f"{100 * cat:.2f}" in table and f"{50 * (cat + 1):.2f}" in table
    assert err.startswith("warning: ") and "owl is in none of the pictures" in err


def test_table_shows_per_cent_and_counts(folders, monkeypatch, capsys):
    status, out, err = command_line(monkeypatch, capsys, folders)
    rows = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in out.splitlines()]
    assert "VOC2007 (11-point AP), IoU > 0.5" in out
    assert ["cat", "50.00", "1", "3"] in rows
    assert ["dog", "100.00", "1", "2"] in rows
    assert ["mAP", "75.00", "2", "5"] in rows
    assert (status, err) == (0, "")


def test_class_without_a_file_scores_zero_and_says_so(folders):
    (folders / "found" / "comp4_det_test_dog.txt").unlink()
    result, warnings = evaluate(folders)
    assert result.map_11_point == 0.25
    assert len(warnings) == 1 and "comp4_det_test_dog.txt is missing" in warnings[0]


def test_files_from_windows_are_read(folders):
    wanted = evaluate(folders)[0].map_area
    for path in [*(folders / "found").iterdir(), *folders.glob("*.txt")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert evaluate(folders)[0].map_area == wanted


def test_empty_files_score_zero(folders):
    for name in ("cat", "dog"):
        (folders / "found" / f"comp4_det_test_{name}.txt").write_text("\n")
    assert evaluate(folders)[0].map_area == 0.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000001 0.9 1 1 10", "has 5 words"),
        ("000001 0.9 1 1 10 10 7", "has 7 words"),
        ("000001 0.9 1 one 10 10", "not a number"),
        ("000001 nan 1 1 10 10", "not finite"),
        ("000001 0.9 1 inf 10 10", "not finite"),
        ("000001 0.9 10 1 1 10", "inverted box"),
    ],
)
@pytest.mark.parametrize("before", ["", "000001 0.8 1 1 10 10\n\n"])
def test_bad_line_is_named(folders, line, message, before):
    path = folders / "found" / "comp4_det_test_dog.txt"
    path.write_text(f"{before}{line}\n")
    with pytest.raises(DataError, match=message) as error:
        evaluate(folders)
    assert str(error.value).startswith(f"{path}:{before.count(chr(10)) + 1}: '{line}'")


def test_lines_of_another_length_are_not_read_as_a_grid(folders):
    """Six lines of seven words have as many words as seven lines of six."""
    path = folders / "found" / "comp4_det_test_dog.txt"
    path.write_text("000001 0.9 1 1 10 10 7\n" * 6)
    with pytest.raises(DataError, match=":1: .* has 7 words"):
        evaluate(folders)


def break_with(folders, what):
    if what == "no detection folder":
        (folders / "found").rename(folders / "gone")
    elif what == "no detection file":
        for path in (folders / "found").iterdir():
            path.unlink()
    elif what == "no annotation folder":
        (folders / "xml").rename(folders / "gone")
    elif what == "no annotation":
        (folders / "xml" / "000002.xml").unlink()
    elif what == "no objects":
        for path in (folders / "xml").iterdir():
            path.write_text("<annotation></annotation>")
    elif what == "inverted ground truth":
        body = OBJECT.format("cat", 0, 10, 1, 1, 10)
        (folders / "xml" / "000002.xml").write_text(f"<annotation>{body}</annotation>")
    elif what == "no list":
        (folders / "list.txt").unlink()
    elif what == "empty list":
        (folders / "list.txt").write_text("\n")
    elif what == "not in the list":
        (folders / "list.txt").write_text("000001\n")
    elif what == "not text":
        (folders / "found" / "comp4_det_test_cat.txt").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no detection folder", "found: no such folder"),
        ("no detection file", "found: no detection files; expected comp4_det_test_CLASS.txt"),
        ("no annotation folder", "xml: no such folder"),
        ("no annotation", "000002.xml: the annotation does not exist"),
        ("no objects", "xml: no object in the 2 pictures"),
        (
            "inverted ground truth",
            "000002.xml: object 1 (cat): the box has no area: xmin 10 > xmax 1",
        ),
        ("no list", "list.txt: cannot read the image list"),
        ("empty list", "list.txt: the list is empty"),
        ("not in the list", "comp4_det_test_cat.txt: a detection in picture 000002, which is not"),
        ("not text", "comp4_det_test_cat.txt: cannot read the detections"),
    ],
)
def test_bad_input_is_a_one_line_error(folders, monkeypatch, capsys, what, message):
    break_with(folders, what)
    status, out, err = command_line(monkeypatch, capsys, folders)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_starts_without_tensorflow():
    code = "import sys, metrics.voc_map; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Which pictures go to train and to eval."""

import pytest

from data.convert import main
from data.errors import DataError
from data.report import Count
from tests.data.converting import convert, sources_of

_LISTS = {"eval": ["VOC2007/val"], "classes": ["cat", "dog"]}


def test_eval_is_held_out_by_content(tmp_path, voc_root, voc_year):
    def held_out(name, ids):
        voc_year.write_list("trainval", ids)
        convert(voc_root, tmp_path / name, eval_fraction=0.3, classes=["dog"])
        splits = {split: set(sources_of(tmp_path / name / split)) for split in ("train", "eval")}
        assert splits["train"] | splits["eval"] == {f"VOC2007/{image_id}" for image_id in ids}
        assert not splits["train"] & splits["eval"]
        return splits["eval"]

    ids = [voc_year.add(f"{n:06d}") for n in range(10, 110)]
    whole = held_out("whole", ids)
    assert 15 <= len(whole) <= 45
    # A picture's split does not depend on the other pictures in the list.
    half = ids[::2]
    assert held_out("half", half) == whole & {f"VOC2007/{image_id}" for image_id in half}


def test_twins_are_held_out_together(tmp_path, voc_root, voc_year):
    """The same picture under two names would leak if held out separately."""
    pictures = voc_year.folder / "JPEGImages"
    pairs = []
    for number in range(10, 40):
        first = voc_year.add(f"{number:06d}")
        same = (pictures / f"{first}.jpg").read_bytes()
        pairs.append((first, voc_year.add(f"{number + 500:06d}", jpeg=same)))
    voc_year.write_list("trainval", [image_id for pair in pairs for image_id in pair])
    convert(voc_root, tmp_path / "out", eval_fraction=0.5, classes=["dog"])
    held_out = set(sources_of(tmp_path / "out" / "eval"))
    apart = [pair for pair in pairs if len({f"VOC2007/{i}" in held_out for i in pair}) == 2]
    assert apart == []
    assert 0 < len(held_out) < 2 * len(pairs)


def test_an_eval_fraction_of_0_gives_no_eval_split(tmp_path, voc_root, voc_year):
    report = convert(voc_root, tmp_path / "out", eval_fraction=0, classes=["dog"])
    assert set(report.splits) == {"train", "test"}
    assert not (tmp_path / "out" / "eval").exists()


def test_nothing_held_out_is_an_error(tmp_path, voc_root, voc_year):
    with pytest.raises(DataError, match="no picture is left for eval.*--eval-fraction"):
        convert(voc_root, tmp_path / "out", eval_fraction=1e-9, classes=["dog"])
    assert not (tmp_path / "out").exists()


def test_a_test_picture_under_another_name_is_kept_out_of_training(tmp_path, voc_root, voc_year):
    same = (voc_year.folder / "JPEGImages" / "000004.jpg").read_bytes()
    voc_year.write_list("trainval", ["000001", voc_year.add("000005", jpeg=same)])
    leak = "VOC2007/000005: listed for train, but test has it too, as VOC2007/000004"
    with pytest.raises(DataError, match=leak):
        convert(voc_root, tmp_path / "out", **_LISTS)

    report = convert(voc_root, tmp_path / "out", on_error="skip", **_LISTS)
    assert sources_of(tmp_path / "out" / "train") == ["VOC2007/000001"]
    assert sources_of(tmp_path / "out" / "test") == ["VOC2007/000004"]
    assert report.rejected == 1


def test_twins_within_a_split_are_harmless(tmp_path, voc_root, voc_year):
    same = (voc_year.folder / "JPEGImages" / "000001.jpg").read_bytes()
    voc_year.write_list("trainval", ["000001", voc_year.add("000005", jpeg=same)])
    report = convert(voc_root, tmp_path / "out", **_LISTS)
    assert report.splits["train"].total.images == 2


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_the_eval_fraction_is_checked(tmp_path, voc_root, fraction, capsys):
    arguments = ["--voc", str(voc_root), "--output", str(tmp_path / "out")]
    assert main([*arguments, f"--eval-fraction={fraction}"]) == 2
    assert "error: --eval-fraction: " in capsys.readouterr().err


def test_few_pictures_for_eval_give_a_warning(tmp_path, voc_root, voc_year):
    ids = [voc_year.add(f"{n:06d}") for n in range(10, 60)]
    voc_year.write_list("trainval", ids)
    report = convert(voc_root, tmp_path / "out", eval_fraction=0.2, classes=["dog"])
    assert any(note.startswith("warning: ") and "--eval-fraction" in note for note in report.notes)


def test_a_split_without_objects_is_an_error(tmp_path, voc_root, voc_year, make_xml):
    voc_year.add("000004", make_xml([]))
    with pytest.raises(DataError, match="^test: no object in 1 picture, .*--allow-empty"):
        convert(voc_root, tmp_path / "out", **_LISTS)
    report = convert(voc_root, tmp_path / "out", allow_empty=True, **_LISTS)
    assert report.splits["test"].total == Count(1, 0, 0)

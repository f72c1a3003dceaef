import pytest

from data.errors import DataError
from data.image_sets import select as select_pictures
from data.image_sets import split_of
from data.options import ConversionOptions


def select(root, **options):
    """`data.image_sets.select` with the options as keywords."""
    return select_pictures(root, ConversionOptions(**options))


def _ids(selection, split):
    return [picture.source_id for picture in selection.pictures if picture.split == split]


def test_default_is_07_plus_12(voc_root, voc_year, make_year):
    later = make_year("VOC2012")
    later.write_list("trainval", ["2008_000001"])
    selection = select(voc_root)
    assert selection.lists == {
        "train": ("VOC2007/trainval", "VOC2012/trainval"),
        "eval": (),
        "test": ("VOC2007/test",),
    }
    assert _ids(selection, "train") == ["VOC2007/000001", "VOC2007/000002", "VOC2012/2008_000001"]
    assert _ids(selection, "test") == ["VOC2007/000004"]
    last = selection.pictures[2]
    assert last.folder == str(voc_root / "VOC2012" / "JPEGImages")
    assert last.annotation_path == voc_root / "VOC2012" / "Annotations" / "2008_000001.xml"


def test_devkit_below_the_root(tmp_path, voc_root, voc_year):
    (tmp_path / "above").mkdir()
    voc_root.rename(tmp_path / "above" / "VOCdevkit")
    assert len(select(tmp_path / "above").pictures) == 3


def test_hikapoks_layout(voc_root, make_year):
    make_year("VOC2007").write_list("trainval", ["000001"])
    make_year("VOC2012").write_list("trainval", ["2008_000001"])
    make_year("VOC2007TEST").write_list("test", ["000002"])
    selection = select(voc_root)
    assert selection.lists["test"] == ("VOC2007TEST/test",)
    assert _ids(selection, "test") == ["VOC2007TEST/000002"]
    (voc_root / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("000003")
    assert select(voc_root).lists["test"] == ("VOC2007/test",)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("train", "Training"), "train"),
        (("val", "VALID", "validation", "eval", "dev"), "eval"),
        (("test", "testing"), "test"),
        (("trainval", "tests", ""), None),
    ],
)
def test_names_that_tools_give_to_splits(names, split):
    assert {split_of(name) for name in names} == {split}


def test_without_a_test_list_the_eval_list_is_used_for_test(voc_root, make_year):
    year = make_year("pets")
    year.write_list("train", ["000001"])
    year.write_list("val", ["000002"])
    # Of both of these.
    year.write_list("trainval", ["000001", "000002"])
    selection = select(voc_root)
    assert selection.lists == {"train": ("pets/train",), "eval": (), "test": ("pets/val",)}
    assert any("test: no list, so it gets pets/val" in note for note in selection.notes)


def test_trainval_is_for_training_unless_both_its_halves_are_there(voc_root, make_year):
    year = make_year("pets")
    for number, name in enumerate(("train", "trainval", "test")):
        year.write_list(name, [f"00000{number}"])
    assert select(voc_root).lists == {
        "train": ("pets/trainval",),
        "eval": (),
        "test": ("pets/test",),
    }
    year.write_list("val", ["000007"])
    assert select(voc_root).lists == {
        split: (f"pets/{name}",)
        for split, name in (("train", "train"), ("eval", "val"), ("test", "test"))
    }


def test_shares_apply_only_to_the_listed_pictures(voc_root, voc_year):
    voc_year.add("000009")
    selection = select(voc_root, split="60/20/20")
    assert [picture.name for picture in selection.pictures] == [
        f"{number:06d}" for number in (1, 2, 3, 4)
    ]
    assert {picture.split for picture in selection.pictures} == {""}
    assert selection.shares == pytest.approx((0.6, 0.2, 0.2))
    with pytest.raises(DataError, match="leave out --train"):
        select(voc_root, split="60/20/20", eval=["VOC2007/val"])


def test_missing_years_are_noted(voc_root, make_year):
    make_year("VOC2012").write_list("trainval", ["2008_000001"])
    selection = select(voc_root)
    assert selection.lists == {"train": ("VOC2012/trainval",), "eval": (), "test": ()}
    notes = "\n".join(selection.notes)
    assert "found in" in notes
    assert "VOC2012/trainval" in notes
    assert "train: no VOC2007/trainval" in notes
    assert "test: no VOC2007/test" in notes


def test_named_lists_replace_the_default(voc_root, voc_year):
    selection = select(
        voc_root, train=["VOC2007/val"], eval=["VOC2007/test"], test=["VOC2007/trainval"]
    )
    assert selection.lists["train"] == ("VOC2007/val",)
    assert selection.lists["test"] == ("VOC2007/trainval",)
    assert _ids(selection, "eval") == ["VOC2007/000004"]


def test_a_picture_in_two_lists_of_a_split_is_used_once(voc_root, voc_year):
    voc_year.write_list("train", ["000001"])
    selection = select(voc_root, train=["VOC2007/train", "VOC2007/trainval"])
    assert _ids(selection, "train") == ["VOC2007/000001", "VOC2007/000002"]


def test_a_missing_named_list(voc_root, voc_year):
    voc_year.write_list("dog_val", [])
    with pytest.raises(
        DataError, match="--eval VOC2012/val: .*It has: VOC2007/test, VOC2007/tr"
    ) as e:
        select(voc_root, eval=["VOC2012/val"])
    assert "dog_val" not in str(e.value)


def test_lists_of_single_classes_are_not_all_named(voc_root, make_year):
    year = make_year("export")
    year.add("a")
    for number in range(6):
        year.write_list(f"c{number:02d}_train", ["a.jpg 1"])
    assert select(voc_root).notes[0].endswith("export/c05_train")
    for number in range(20):
        year.write_list(f"c{number:02d}_train", ["a.jpg 1"])
    notes = select(voc_root).notes
    assert notes[0].endswith("export/c04_train, export/c05_train and 14 more")
    assert notes[1:] == ("no list is named after a split",)


def test_a_list_of_one_class(voc_root, voc_year):
    voc_year.write_list("dog_val", ["000003  1"])
    with pytest.raises(DataError, match=r"dog_val\.txt: line 1 is .*list of one class"):
        select(voc_root, eval=["VOC2007/dog_val"])


def test_an_empty_list(voc_root, voc_year):
    voc_year.write_list("test", [])
    with pytest.raises(DataError, match=r"test\.txt: the list is empty, so test gets no picture"):
        select(voc_root)


def test_nothing_to_train_on(voc_root, make_year):
    make_year("VOC2007").write_list("test", ["000001"])
    with pytest.raises(DataError, match="nothing to train on.*--train"):
        select(voc_root)


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match="none: no such folder. Give"):
        select(tmp_path / "none")


def test_empty_root(voc_root):
    with pytest.raises(DataError, match="voc: no VOC data.*unpack"):
        select(voc_root)


def test_folder_of_one_year(voc_root, voc_year):
    selection = select(voc_root / "VOC2007")
    assert selection.lists["train"] == ("VOC2007/trainval",)
    assert select(voc_root / "VOC2007", train=["val"]).lists["train"] == ("VOC2007/val",)


def test_annotations_in_another_spelling(tmp_path, make_xml):
    for name in ("Img_1.xml", "b.XML"):
        (tmp_path / name).write_text(make_xml())
    selection = select(tmp_path)
    assert selection.shares == pytest.approx((0.8, 0.1, 0.1))
    assert len(selection.notes) == 1
    pictures = selection.pictures
    assert [picture.name for picture in pictures] == ["Img_1", "b"]
    assert pictures[1].annotation_path == tmp_path / "b.XML"

    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    # As PowerShell writes it.
    (lists / "train.txt").write_text("IMG_1\nb.jpg\n", "utf-16")
    pictures = select(tmp_path).pictures
    assert [picture.annotation_path.name for picture in pictures] == ["Img_1.xml", "b.XML"]

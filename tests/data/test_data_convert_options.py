"""Options reach a conversion, from Python and from the command line."""

import dataclasses
from types import SimpleNamespace
from unittest import mock

import pytest

from data import convert
from data.beam_runner import beam_arguments
from data.coco import CocoSource
from data.conversion import shard_numbers
from data.errors import DataError
from data.image_sets import Picture, Selection
from data.options import DEFAULT_SPLIT, ConversionOptions, as_settings, shares_of
from data.problems import Problem
from data.report import Report
from data.schema import class_names, read_schema
from tests.data.tool_folders import coco, write

_COMMON = {"seed": 7, "beam_options": ["--a"], "console": "console", "overwrite": True}


@pytest.fixture
def written(monkeypatch):
    """Replaces `_write`; records its arguments."""
    write = mock.Mock()
    monkeypatch.setattr(convert, "_write", write)
    return write


def _add_coco(folder):
    write(folder / "labels.json", coco("a"))
    return CocoSource("train", folder / "labels.json", folder)


def test_voc_options_reach_the_writer(voc_root, voc_year, written):
    options = ConversionOptions(classes=["emu", "dog"], eval_fraction=0.3)
    convert.convert(voc_root, "out", options, **_COMMON)
    selection, *given = written.call_args.args
    assert selection.lists["train"] == ("VOC2007/trainval",)
    assert given == [("emu", "dog"), False, *_given("out", options)]


def test_coco_options_reach_the_writer(tmp_path, written):
    options = ConversionOptions(eval_fraction=0.3)
    convert.convert_coco([_add_coco(tmp_path)], "out", options, **_COMMON)
    selection, *given = written.call_args.args
    assert selection.lists["train"] == ("labels.json",)
    assert given == [("dog",), True, *_given("out", options)]


def _given(output, options):
    return [convert.Path(output), options, 7, ["--a"], "console", True]


def test_classes_auto_are_those_found_sorted(tmp_path, voc_root, voc_year, make_xml, written):
    auto = ConversionOptions(classes=["auto"])
    names = ("emu", "dog", "ant nest", "cow", "bee")
    voc_year.add("000001", make_xml([(name, (1, 1, 9, 9)) for name in names]))
    # The conversion reports it.
    voc_year.add("000002", "broken")
    convert.convert(voc_root, "out", auto)
    assert written.call_args.args[1] == tuple(sorted(names))
    convert.convert_coco([_add_coco(tmp_path)], "out", auto)
    assert written.call_args.args[1] == ("dog",)
    voc_year.write_list("trainval", ["000002"])
    with pytest.raises(DataError, match="--classes auto: no object"):
        convert.convert(voc_root, "out", ConversionOptions(classes=["auto"], test=["trainval"]))


@pytest.mark.parametrize(
    ("shares", "lists", "fraction"),
    [(None, (), 0.3), (None, ("list",), 0.0), ((0.8, 0.1, 0.1), (), 0.0)],
)
def test_pictures_are_held_out_only_if_nothing_else_decides(tmp_path, shares, lists, fraction):
    selection = Selection("set", {"eval": lists}, (), (), shares)
    options = ConversionOptions(eval_fraction=0.3)
    plan, beam_options = _planned(tmp_path, selection, options)
    assert (plan.eval_fraction, plan.shares, plan.seed) == (fraction, shares, 5)
    assert (plan.classes, plan.options, beam_options) == (("dog",), options, ["--a"])


def _planned(tmp_path, selection, options):
    """What a conversion would run."""
    with (
        mock.patch("data.conversion.run", side_effect=KeyError) as run,
        mock.patch("data.progress.watch") as watch,
        pytest.raises(KeyError),
    ):
        convert._write(
            selection, ["dog"], False, tmp_path / "out", options, 5, ["--a"], "console", False
        )
    assert watch.call_args.args[1:] == ({"check": 0, "write": 0}, "console")
    return run.call_args.args[1:]


@pytest.mark.parametrize(
    ("on_error", "loose", "only_check"),
    [("fail", 0, False), ("fail", 1, True), ("skip", 1, False), ("skip-object", 1, False)],
)
def test_nothing_is_written_if_an_annotation_without_a_picture_is_an_error(
    tmp_path, on_error, loose, only_check
):
    problems = (Problem("image", "there is no image 7", of_object=True),) * loose
    selection = Selection("set", {"eval": ()}, (), (), loose=problems)
    plan, _ = _planned(tmp_path, selection, ConversionOptions(on_error=on_error))
    assert plan.only_check == only_check


def test_the_number_of_shards_follows_the_number_of_pictures(monkeypatch):
    monkeypatch.setattr("data.conversion._PICTURES_PER_SHARD", 10)
    pictures = [Picture("", split, "") for split in ("train",) * 80 + ("test",) * 20]
    assert shard_numbers(pictures, 0.0, None) == {"train": 8, "eval": 1, "test": 2}
    assert shard_numbers(pictures, 0.25, None) == {"train": 6, "eval": 2, "test": 2}
    assert shard_numbers(pictures, 0.0, (0.5, 0.3, 0.2)) == {"train": 5, "eval": 3, "test": 2}


_REPORT = Report("set", {}, ("a note",), 1, 1, {}, left_out={"class": 1})
_ARGUMENTS = [
    "--seed",
    "7",
    "--overwrite",
    "--verbose",
    "--beam",
    "multiprocess",
    "--on-error",
    "skip",
]


@pytest.fixture
def command(monkeypatch):
    """Runs the command line without a conversion; returns the call that it would make."""

    def command(*arguments):
        calls = mock.Mock(return_value=_REPORT)
        monkeypatch.setattr(convert, "convert", calls.voc)
        monkeypatch.setattr(convert, "convert_coco", calls.coco)
        calls.voc.return_value = calls.coco.return_value = _REPORT
        quiet = mock.Mock()
        monkeypatch.setattr(convert, "quiet", quiet)
        words = [*arguments, "--output", "out", *_ARGUMENTS, "--", "--direct_num_workers=2"]
        assert convert.main(words) == 0
        quiet.assert_called_once_with(True)
        ((name, args, given),) = calls.mock_calls
        assert given.pop("console").stderr
        beam_options = beam_arguments("multiprocess", ["--direct_num_workers=2"])
        assert given == {"seed": 7, "overwrite": True, "beam_options": beam_options}
        return SimpleNamespace(name=name, args=args)

    return command


def test_the_command_line_of_voc(command, tmp_path, capsys):
    schema = tmp_path / "schema.pbtxt"
    schema.write_text(convert.VOC_SCHEMA.read_text("utf-8"))
    call = command("--voc", "VOC", "--schema", str(schema), "--train", "a", "--train", "b")
    classes = class_names(read_schema(schema))
    options = ConversionOptions(train=("a", "b"), on_error="skip", classes=classes)
    assert (call.name, call.args) == (
        "voc",
        (convert.Path("VOC"), convert.Path("out"), options),
    )
    out = capsys.readouterr().out
    assert "a note" in out and "see out/rejected.jsonl" in out


def test_the_command_line_of_coco(command):
    call = command("--coco-annotations", "a.json", "--images", "img", "--classes", "b", "c")
    source = CocoSource("train", convert.Path("a.json"), convert.Path("img"))
    options = ConversionOptions(on_error="skip", classes=("b", "c"))
    assert (call.name, call.args) == ("coco", ([source], convert.Path("out"), options))


def test_by_default_nothing_is_replaced_or_left_out(monkeypatch, capsys):
    convert_voc = mock.Mock(return_value=dataclasses.replace(_REPORT, left_out={}))
    monkeypatch.setattr(convert, "convert", convert_voc)
    assert convert.main(["--voc", "VOC", "--output", "out"]) == 0
    assert convert_voc.call_args.args[2] == ConversionOptions()
    given = convert_voc.call_args.kwargs
    assert (given["overwrite"], given["seed"]) == (False, 0)
    assert "rejected" not in capsys.readouterr().out


def test_the_defaults_of_a_conversion():
    chosen = dataclasses.asdict(ConversionOptions())
    assert {name: value for name, value in chosen.items() if value} == {
        "eval_fraction": 0.02,
        "other_classes": "fail",
        "pixels_from": 1,
        "on_error": "fail",
    }
    assert DEFAULT_SPLIT == "80/10/10"


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("80/10/10", (0.8, 0.1, 0.1)),
        ("3/1/0", (0.75, 0.25, 0)),
        ("1/0/0", (1, 0, 0)),
        ("0/1/1", None),
        ("2/-1/1", None),
        ("1/1", None),
        ("inf/1/1", None),
        ("nan/1/1", None),
        ("a/1/1", None),
    ],
)
def test_shares_are_of_three_splits_with_something_to_train_on(text, shares):
    if shares:
        assert shares_of(text) == pytest.approx(shares)
    else:
        with pytest.raises(ValueError, match="such as 80/10/10"):
            shares_of(text)


def test_messages_name_the_settings_of_a_run():
    assert as_settings("--eval-fraction 0.1 or --eval list, --exif=upright, --rescale") == (
        "--set data.eval_fraction=0.1 or --set data.eval=list, --set data.exif=upright, "
        "--set data.rescale=true"
    )
    assert as_settings("--rescaled or --eval-fractions 2") == "--rescaled or --eval-fractions 2"

"""The outcome of a conversion: notes, hints, and errors with their remedies."""

from collections import Counter
from pathlib import Path

import pytest

from data.conversion import CHANGES, CLASSES, GROUPS, STARTS, Plan, Rejected, Result
from data.errors import DataError
from data.image_sets import Picture, Selection
from data.options import ConversionOptions
from data.outcome import judge, rows
from data.problems import Problem
from data.report import Count, SplitCount

_NO_LISTS = {"train": (), "eval": (), "test": ()}
_BAD_OBJECT = Problem("class", "a.xml: object 1 (emu): not one of the 1 classes", of_object=True)
_BAD_PICTURE = Problem("damaged", "a.jpg: damaged")


def _judge(
    *problems,
    facts=(),
    written=(("train", 40),),
    objects=3,
    difficult=0,
    lists=(("train", ("a/train",)),),
    shares=None,
    eval_fraction=0.0,
    loose=(),
    kept=False,
    classes=("dog",),
    **options,
):
    """The report of a conversion of 40 train pictures, one of which may have problems."""
    selection = Selection(
        data_set="set",
        lists={**_NO_LISTS, **dict(lists)},
        pictures=tuple(Picture(f"a/{n}", "train", "") for n in range(40)),
        notes=("found in set",),
        shares=shares,
        loose=loose,
    )
    plan = Plan(
        folder=Path(),
        marks=Path(),
        classes=classes,
        options=ConversionOptions(**options),
        eval_fraction=eval_fraction,
        shares=shares,
        seed=0,
        shards={},
    )
    count = {split: SplitCount(Count(images, objects, difficult), {}) for split, images in written}
    rejected = (Rejected("a/1", "train", problems, kept),) if problems else ()
    result = Result(rejected, count, Counter(dict(facts)))
    return judge(selection, plan, result), list(rows(selection, result))


@pytest.mark.parametrize(
    ("pixels_from", "zeros", "ones", "hint"),
    [
        (1, 5, 0, "--pixels-from 0"),
        (1, 4, 0, None),
        # If some boxes start at 1, those at 0 are mistakes.
        (1, 5, 1, None),
        (0, 0, 5, "without --pixels-from"),
        (0, 0, 4, None),
        (0, 1, 5, None),
    ],
)
def test_a_hint_on_pixels_from_follows_from_where_boxes_start(pixels_from, zeros, ones, hint):
    facts = {(STARTS, "0"): zeros, (STARTS, "1"): ones}
    report, _ = _judge(facts=facts, pixels_from=pixels_from)
    text = " ".join(report.notes)
    assert ("--pixels-from" in text) == bool(hint)
    assert (hint or "") in text


def test_the_report_names_the_lists():
    lists = {"train": ("a/train", "b/train"), "test": ("a/test",)}
    written = {"train": 40, "test": 9}.items()
    facts = {(CHANGES, "turned upright"): 2, (CHANGES, "boxes scaled"): 3}
    report, _ = _judge(lists=lists.items(), written=written, facts=facts)
    assert report.notes == (
        "found in set",
        "train: 40 pictures of a/train, b/train",
        "eval: no list, so nothing is written",
        "test: 0 pictures of a/test",
    )
    assert list(report.settled.items()) == [("boxes scaled", 3), ("turned upright", 2)]


@pytest.mark.parametrize(("held_out", "few"), [(29, True), (30, False)])
def test_held_out_pictures_are_reported_with_a_warning_if_they_are_few(held_out, few):
    written = {"train": 40, "eval": held_out}.items()
    report, _ = _judge(eval_fraction=0.3, written=written)
    notes = "\n".join(report.notes)
    assert f"eval: {held_out} of the train pictures, held out by content" in notes
    assert "eval: no list" not in notes and "test: no list" in notes
    assert ("--eval-fraction 0.3" in notes) == few


def test_a_split_by_content_reports_its_groups():
    facts = {(GROUPS, "all"): 30, (GROUPS, "of several"): 5, (GROUPS, "pictures"): 15}
    written = {"train": 30, "eval": 6, "test": 4}.items()
    report, _ = _judge(shares=(0.75, 0.15, 0.1), lists=(), facts=facts, written=written)
    assert report.groups == {"all": 30, "of several": 5, "pictures": 15}
    assert report.notes[1:] == (
        "split 75/15/10 by content: 5 groups of look-alikes (15 pictures) kept together",
    )


@pytest.mark.parametrize(
    ("problems", "loose", "start", "remedy"),
    [
        ([_BAD_OBJECT], (), "1 of 40 pictures", "leave only these objects out with --on-error="),
        ([_BAD_PICTURE], (), "1 of 40 pictures", "out with --on-error=skip; rejected.jsonl"),
        (
            [_BAD_OBJECT, _BAD_PICTURE],
            (),
            "1 of 40 pictures",
            "where possible only the bad objects",
        ),
        ([], (_BAD_OBJECT, _BAD_OBJECT), "2 annotations cannot", "leave only these objects out"),
    ],
)
def test_unusable_pictures_are_an_error_with_a_remedy(problems, loose, start, remedy):
    found = {(CLASSES, "dog"): 3, (CLASSES, "emu"): 1}
    with pytest.raises(DataError) as caught:
        _judge(*problems, loose=loose, facts=found)
    assert str(caught.value).startswith(start)
    assert remedy in " ".join(str(caught.value).split())
    assert ("--classes dog emu" in str(caught.value)) == (_BAD_OBJECT in (*problems, *loose))


def test_a_long_list_of_classes_is_cut():
    facts = {(CLASSES, f"c{number:02d}"): 50 - number for number in range(21)} | {
        (CLASSES, "dog"): 1
    }
    with pytest.raises(DataError) as caught:
        _judge(_BAD_OBJECT, facts=facts)
    text = " ".join(str(caught.value).split())
    assert "Classes found: c00 (50), c01 (49)," in text
    assert "c19 (31), and 2 more" in text
    assert text.count("--classes auto") and "--classes c00" not in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"written": ()}, "^no picture is left for train, .*Check it$"),
        ({"eval_fraction": 0.1}, "^no picture is left for eval, .*raise --eval-fraction$"),
        (
            {"shares": (0.8, 0.2, 0.0), "lists": ()},
            "^no picture is left for eval, .*look different; give another --split$",
        ),
        ({"objects": 0}, "^train: no object in 40 pictures, .*--allow-empty"),
    ],
)
def test_a_split_that_came_out_empty_is_an_error(given, message):
    with pytest.raises(DataError, match=message):
        _judge(**given)


def test_an_empty_split_is_explained_by_what_was_left_out():
    with pytest.raises(DataError, match=r"(?s)^no picture is left for train, .*a.jpg: damaged"):
        _judge(_BAD_PICTURE, written=(), on_error="skip")


def test_an_empty_split_may_be_accepted():
    _judge(objects=0, difficult=1)
    # A share of nothing.
    written = {"train": 30, "eval": 10}.items()
    groups = {(GROUPS, "all"): 40, (GROUPS, "of several"): 0, (GROUPS, "pictures"): 0}
    _judge(shares=(0.8, 0.2, 0.0), lists=(), written=written, facts=groups)
    _judge(objects=0, allow_empty=True)


@pytest.mark.parametrize("kept", [False, True])
def test_rejected_pictures_are_counted_and_listed(kept):
    report, listed = _judge(
        _BAD_OBJECT,
        _BAD_OBJECT,
        kept=kept,
        loose=(_BAD_PICTURE,),
        on_error="skip-object",
        facts={(CLASSES, "dog"): 3},
    )
    assert report.rejected == (0 if kept else 1)
    # Pictures, not objects.
    assert report.left_out == {"class": 1, "damaged": 1}
    assert listed == [
        {
            "source_id": "a/1",
            "split": "train",
            "kept": kept,
            "problems": [str(_BAD_OBJECT)] * 2,
        },
        {"source_id": "", "split": "", "kept": True, "problems": [str(_BAD_PICTURE)]},
    ]

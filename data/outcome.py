"""The outcome of a conversion: its report, or the error that says why nothing was written."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping

from data.conversion import CHANGES, CLASSES, GROUPS, STARTS, Plan, Rejected, Result
from data.errors import DataError
from data.image_sets import Selection
from data.options import AUTO, IGNORE
from data.problems import counted, summarise, wrapped
from data.report import Report
from data.splits import SPLITS

_MOST_CLASSES = 20
_FEW_PICTURES = 30
# This many boxes at pixel 0 with none at pixel 1 are no accident.
_MANY_STARTS = 5


def judge(selection: Selection, plan: Plan, result: Result) -> Report:
    """The report of a conversion.

    Raises:
        DataError: `--on-error=fail` and something is unusable, or a split came out empty.
    """
    rejected = _rejected(selection, result)
    left_out = [item for item in rejected if not item.kept]
    hints = _hints(plan, result, rejected)
    if plan.strict and rejected:
        raise DataError(_failure(selection, rejected, hints, _remedy(plan, result, rejected)))
    _check_splits(selection, plan, result, rejected, hints)
    kinds = Counter(kind for item in rejected for kind in {p.kind for p in item.problems})
    return Report(
        data_set=selection.data_set,
        lists=selection.lists,
        notes=(*_notes(selection, plan, result), *hints),
        pictures=len(selection.pictures),
        rejected=len(left_out),
        splits=result.written,
        settled=_of(result, CHANGES),
        left_out=dict(kinds.most_common()),
        groups=_of(result, GROUPS),
        summary=tuple(summarise([item.problems for item in rejected], briefly=True)),
    )


def rows(selection: Selection, result: Result) -> Iterator[dict]:
    """The rows of `rejected.jsonl`: pictures left out, or kept without some objects."""
    for item in _rejected(selection, result):
        yield {
            "source_id": item.source_id,
            "split": item.split,
            "kept": item.kept,
            "problems": [str(problem) for problem in item.problems],
        }


def _rejected(selection: Selection, result: Result) -> list[Rejected]:
    loose = [Rejected("", "", (problem,), kept=True) for problem in selection.loose]
    return [*result.rejected, *loose]


def _failure(selection: Selection, rejected: list[Rejected], hints: list[str], remedy: str) -> str:
    pictures = sum(bool(item.source_id) for item in rejected)
    what = f"{pictures:,} of {counted(len(selection.pictures), 'picture')}"
    if not pictures:
        what = counted(sum(len(item.problems) for item in rejected), "annotation")
    return "\n".join(
        [
            f"{what} cannot be used, so nothing was written:",
            *summarise(item.problems for item in rejected),
            *hints,
            *wrapped(remedy),
        ]
    )


def _remedy(plan: Plan, result: Result, rejected: list[Rejected]) -> str:
    """How to convert without the unusable parts; empty if nothing would be left."""
    if _no_class_fits(plan, result):
        return ""
    problems = [problem for item in rejected for problem in item.problems]
    remedy = "Or leave these pictures out with --on-error=skip"
    if all(problem.of_object for problem in problems):
        remedy = "Or leave only these objects out with --on-error=skip-object"
    elif any(problem.of_object for problem in problems):
        remedy += ", or where possible only the bad objects with --on-error=skip-object"
    return f"{remedy}; rejected.jsonl then lists them"


def _no_class_fits(plan: Plan, result: Result) -> bool:
    found = _of(result, CLASSES)
    return bool(found) and not set(found) & set(plan.classes)


def _hints(plan: Plan, result: Result, rejected: list[Rejected]) -> list[str]:
    """What the whole data set reveals about its pixel counting and classes."""
    hints = []
    starts = _of(result, STARTS)
    zeros, ones = starts.get("0", 0), starts.get("1", 0)
    if plan.options.pixels_from == 1 and zeros >= _MANY_STARTS and not ones:
        hints += wrapped(
            f"{zeros:,} boxes start at pixel 0 and none at pixel 1: this data set counts from 0. "
            "Convert it with --pixels-from 0"
        )
    if plan.options.pixels_from == 0 and ones >= _MANY_STARTS and not zeros:
        hints += wrapped(
            f"{ones:,} boxes start at pixel 1 and none at pixel 0: this data set may count from 1, "
            "as VOC does. Then convert it without --pixels-from"
        )
    if any(problem.kind == "class" for item in rejected for problem in item.problems):
        hints += _class_lines(result, plan)
    return hints


def _class_lines(result: Result, plan: Plan) -> list[str]:
    """The classes found with their counts, and the options to ignore or accept them."""
    found = _of(result, CLASSES)
    names = sorted(found, key=lambda name: (-found[name], name))
    shown = ", ".join(f"{name} ({found[name]:,})" for name in names[:_MOST_CLASSES])
    more = f", and {len(names) - _MOST_CLASSES:,} more" if len(names) > _MOST_CLASSES else ""
    lines = wrapped(f"Classes found: {shown}{more}")
    if _no_class_fits(plan, result):
        asked = ", ".join(plan.classes[:3]) + (", ..." if len(plan.classes) > 3 else "")
        lines += wrapped(f"None of them is in the class list: {asked}")
    else:
        lines.append("To keep the pictures without the objects of other classes:")
        lines.append(f"  --other-classes {IGNORE}")
    if len(names) <= _MOST_CLASSES:
        return [*lines, "To use all of them:", f"  --classes {shlex.join(sorted(names))}"]
    return [*lines, f"To use all of them: --classes {AUTO}"]


def _notes(selection: Selection, plan: Plan, result: Result) -> list[str]:
    notes = list(selection.notes)
    for split in SPLITS:
        if selection.lists[split]:
            listed = sum(picture.split == split for picture in selection.pictures)
            notes.append(
                f"{split}: {counted(listed, 'picture')} of {', '.join(selection.lists[split])}"
            )
        elif not plan.shares and (split == "test" or not plan.eval_fraction):
            notes.append(f"{split}: no list, so nothing is written")
    if plan.shares:
        groups = _of(result, GROUPS)
        shares = "/".join(f"{100 * share:g}" for share in plan.shares)
        notes.append(
            f"split {shares} by content: {counted(groups['of several'], 'group')} of look-alikes "
            f"({counted(groups['pictures'], 'picture')}) kept together"
        )
    if plan.eval_fraction:
        held_out = result.written["eval"].total.images
        notes.append(f"eval: {held_out:,} of the train pictures, held out by content")
        if held_out < _FEW_PICTURES:
            notes.append(
                f"warning: only {counted(held_out, 'picture')} for eval: raise "
                f"--eval-fraction {plan.eval_fraction:g}"
            )
    return notes


def _check_splits(
    selection: Selection, plan: Plan, result: Result, rejected: list[Rejected], hints: list[str]
) -> None:
    wanted = {split for split in SPLITS if selection.lists[split]}
    wanted |= {"eval"} if plan.eval_fraction else set()
    for split, share in zip(SPLITS, plan.shares or (), strict=False):
        wanted |= {split} if share else set()
    if _no_class_fits(plan, result) and not plan.options.allow_empty:
        lines = [
            "no object has a class in the list, so nothing was written.",
            *summarise(item.problems for item in rejected),
            *(hints or _class_lines(result, plan)),
        ]
        raise DataError("\n".join(lines))
    empty = [split for split in SPLITS if split in wanted and split not in result.written]
    if empty and any(not item.kept for item in rejected):
        reasons = summarise(item.problems for item in rejected)
        heading = f"no picture is left for {empty[0]}, so nothing was written. Left out were:"
        raise DataError("\n".join([heading, *reasons, *hints]))
    if empty:
        hint = "Check it"
        if plan.shares:
            hint = "There are too few pictures that look different; give another --split"
        elif empty == ["eval"]:
            hint = "Name one for eval, or raise --eval-fraction"
        raise DataError(f"no picture is left for {empty[0]}, so nothing was written. {hint}")
    for split, count in result.written.items():
        if not count.total.objects + count.total.difficult and not plan.options.allow_empty:
            lines = [
                f"{split}: no object in {counted(count.total.images, 'picture')}, so nothing was "
                "written. Check the annotations, or convert with --allow-empty"
            ]
            if rejected:
                lines += ["Left out were:", *summarise(item.problems for item in rejected)]
            raise DataError("\n".join(lines))


def _of(result: Result, group: str) -> Mapping[str, int]:
    counts = {which: count for (what, which), count in result.facts.items() if what == group}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

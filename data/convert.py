"""Command line: VOC folders or COCO annotations in, sharded and shuffled TFRecords out.

    python -m data.convert --voc VOCROOT --output DIR
    python -m data.convert --output DIR \
      --coco-annotations train=instances_train2017.json --images train2017 \
      --coco-annotations test=instances_val2017.json --images val2017

Of VOC by default the paper's 07+12: the trainval lists of VOC2007 and VOC2012 (16,551 pictures) for
training, VOC2007's test list (4,952) for testing. Two in a hundred training pictures are held out
for eval, chosen by a hash of their content; `--eval LIST` names a list instead, and
`--eval-fraction 0` trains on all 16,551 and writes no eval split.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from google.protobuf import text_format
from rich.console import Console

from data.beam_runner import IN_PROCESS, add_arguments, arguments_of
from data.coco import CocoSource, select_coco
from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.image_sets import SPLITS, Selection, select
from data.output import whole_folder
from data.paths import check_no_wildcard, local_path
from data.report import Report
from data.schema import VOC_SCHEMA, class_names, make_schema, read_schema

DEFAULT_EVAL_FRACTION = 0.02
_PROBLEMS_SHOWN = 20


def convert(
    voc_root: Path | str,
    output: Path | str,
    *,
    train: Sequence[str] = (),
    eval: Sequence[str] = (),
    test: Sequence[str] = (),
    eval_fraction: float = DEFAULT_EVAL_FRACTION,
    classes: Sequence[str] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    seed: int = 0,
    beam_options: Sequence[str] = IN_PROCESS,
    console: Console | None = None,
) -> Report:
    """Writes DIR/{train,eval,test}/*.tfrecord.gz, DIR/schema.pbtxt and DIR/report.json.

    They appear together or not at all.

    Args:
        voc_root: a VOCdevkit or the folder above it.
        output: a folder that does not exist yet or is empty.
        train: lists such as `VOC2007/trainval`; none: the paper's 07+12 as far as it exists.
        eval: likewise; none: `eval_fraction` of the training pictures.
        test: likewise; none: VOC2007's test list if it exists.
        eval_fraction: share of the training pictures held out for eval where `eval` is empty.
        classes: the class names in the order of their ids; None: those of the VOC schema.
        on_error: `fail` writes nothing if any picture is unusable; `skip` leaves such pictures out
            and lists them in DIR/rejected.jsonl.
        seed: of the shuffling.
        beam_options: of `data.beam_runner.beam_arguments`.
        console: where to show progress; None: nowhere.

    Raises:
        DataError: bad input or an unusable output folder.
    """
    _check(eval_fraction, on_error)
    selection = select(Path(voc_root), train=train, eval=eval, test=test)
    schema = make_schema(classes or class_names(read_schema(VOC_SCHEMA)), with_crowds=False)
    return _write(
        selection, schema, Path(output), eval_fraction, on_error, seed, beam_options, console
    )


def convert_coco(
    sources: Sequence[CocoSource],
    output: Path | str,
    *,
    eval_fraction: float = DEFAULT_EVAL_FRACTION,
    classes: Sequence[str] | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    seed: int = 0,
    beam_options: Sequence[str] = IN_PROCESS,
    console: Console | None = None,
) -> Report:
    """As `convert`, of COCO's annotation files; without `classes`, of all their categories."""
    _check(eval_fraction, on_error)
    selection, categories = select_coco(sources)
    schema = make_schema(classes or categories, with_crowds=True)
    return _write(
        selection, schema, Path(output), eval_fraction, on_error, seed, beam_options, console
    )


def _check(eval_fraction: float, on_error: str) -> None:
    if not 0 <= eval_fraction < 1:
        raise DataError(f"--eval-fraction {eval_fraction:g}: give a share of at least 0, below 1")
    if on_error not in ("fail", "skip"):
        raise DataError(f"--on-error {on_error}: give fail or skip")


def _write(
    selection: Selection,
    schema,
    output: Path,
    eval_fraction: float,
    on_error: str,
    seed: int,
    beam_options: Sequence[str],
    console: Console | None,
) -> Report:
    """Converts what was selected into a folder that appears when it is complete."""
    check_no_wildcard(output)
    fraction = 0.0 if selection.lists["eval"] else eval_fraction
    with whole_folder(output) as folder:
        # Beam and TensorFlow take seconds to import; mistakes up to here are answered at once.
        from data import conversion, progress

        marks = folder / "marks"
        plan = conversion.Plan(
            folder=folder,
            marks=marks,
            classes=class_names(schema),
            eval_fraction=fraction,
            strict=on_error == "fail",
            seed=seed,
            shards=conversion.shard_numbers(selection.pictures, fraction),
        )
        for name in (*SPLITS, "marks"):
            (folder / name).mkdir()
        totals = dict.fromkeys(("check", "write"), len(selection.pictures))
        with progress.watch(marks, totals, console) if console else nullcontext():
            result = conversion.run(selection.pictures, plan, beam_options)
        shutil.rmtree(marks)
        if plan.strict and result.rejected:
            raise DataError(_summary(result.rejected, len(selection.pictures)))
        report = _report(selection, fraction, result)
        _check_splits(report, fraction)
        for split in SPLITS:
            if split not in report.splits:
                (folder / split).rmdir()
        if on_error == "skip":
            with (folder / "rejected.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(item)) + "\n" for item in result.rejected)
        report.save(folder / "report.json")
        (folder / "schema.pbtxt").write_text(text_format.MessageToString(schema), encoding="utf-8")
    return report


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line and returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    lists = {split: getattr(options, split) for split in SPLITS}
    if options.voc and options.images:
        parser.error("--images goes with --coco-annotations")
    if options.coco_annotations and any(lists.values()):
        parser.error(
            "--train, --eval and --test go with --voc. Write --coco-annotations SPLIT=FILE"
        )
    quiet(options.verbose)
    named = class_names(read_schema(options.schema)) if options.schema else None
    common = {
        "eval_fraction": options.eval_fraction,
        "classes": options.classes or named,
        "on_error": options.on_error,
        "seed": options.seed,
        "beam_options": arguments_of(options),
        "console": Console(stderr=True),
    }
    if options.voc:
        report = convert(options.voc, options.output, **lists, **common)
    else:
        sources = _coco_sources(options.coco_annotations, options.images)
        report = convert_coco(sources, options.output, **common)
    console = Console(highlight=False)
    for note in report.notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print(report.table())
    if report.rejected:
        console.print(
            f"{report.rejected:,} of {report.pictures:,} pictures were left out: see "
            f"{options.output / 'rejected.jsonl'}",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"wrote {options.output}", markup=False, soft_wrap=True)


def _coco_sources(annotations: Sequence[Path], images: Sequence[Path]) -> list[CocoSource]:
    """Pairs the files of the command line, [SPLIT=]FILE, with the folders of their pictures."""
    if len(images) not in (1, len(annotations)):
        raise DataError(
            f"there are {len(annotations)} --coco-annotations and {len(images)} --images. Give one "
            "folder for all, or one for each in the same order"
        )
    sources = []
    for number, word in enumerate(annotations):
        split, _, file = str(word).partition("=")
        if split not in SPLITS or not file:
            if len(annotations) > 1:
                raise DataError(
                    f"--coco-annotations {word}: say what each of several files is for: "
                    f"{', '.join(f'{split}=FILE' for split in SPLITS)}"
                )
            split, file = "train", str(word)
        sources.append(CocoSource(split, Path(file), images[number if len(images) > 1 else 0]))
    return sources


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        allow_abbrev=False,
        description="Converts Pascal VOC folders or COCO annotations to sharded, shuffled "
        "TFRecords.",
        epilog="Options after -- go to Beam, as in: --beam multiprocess -- --direct_num_workers=4",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--voc", type=local_path, metavar="VOCROOT", help="VOCdevkit, or the folder above it"
    )
    source.add_argument(
        "--coco-annotations",
        type=local_path,
        action="append",
        default=[],
        metavar="[SPLIT=]FILE",
        help="a file such as instances_train2017.json and the split that it is for (default: "
        "train); repeatable",
    )
    parser.add_argument(
        "--images",
        type=local_path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of the pictures of --coco-annotations: one for each file, or one for all",
    )
    parser.add_argument(
        "--output", type=local_path, required=True, metavar="DIR", help="folder to create"
    )
    for split, default in (
        ("train", "VOC2007/trainval and VOC2012/trainval"),
        ("eval", "none, see --eval-fraction"),
        ("test", "VOC2007/test"),
    ):
        parser.add_argument(
            f"--{split}",
            action="append",
            default=[],
            metavar="LIST",
            help=f"of --voc: a list of ImageSets/Main such as VOC2007/val; repeatable (default: "
            f"{default})",
        )
    parser.add_argument(
        "--eval-fraction",
        type=float,
        default=DEFAULT_EVAL_FRACTION,
        metavar="SHARE",
        help="of the training pictures, held out for eval by content where no list or file is for "
        "eval (default: %(default)s)",
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        "--schema",
        type=local_path,
        metavar="FILE",
        help="schema that lists the classes (default: the 20 of VOC, COCO's categories)",
    )
    classes.add_argument(
        "--classes", nargs="+", metavar="NAME", help="the classes, where there is no schema yet"
    )
    parser.add_argument(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="fail: write nothing if a picture is unusable (default); skip: leave it out",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the shuffling (default: %(default)s)"
    )
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    add_arguments(parser)
    return parser


def _summary(rejected: Sequence, pictures: int) -> str:
    problems = [problem for item in rejected for problem in item.problems]
    lines = [
        f"{len(rejected):,} of {pictures:,} pictures cannot be used, so nothing was written:",
        *(f"  {problem}" for problem in problems[:_PROBLEMS_SHOWN]),
    ]
    if len(problems) > _PROBLEMS_SHOWN:
        lines.append(f"  and {len(problems) - _PROBLEMS_SHOWN:,} more problems")
    lines.append(
        "Repair them, or convert with --on-error=skip to leave these pictures out and list them "
        "in rejected.jsonl"
    )
    return "\n".join(lines)


def _report(selection: Selection, fraction: float, result) -> Report:
    splits = result.written
    notes = list(selection.notes)
    for split in SPLITS:
        if selection.lists[split]:
            listed = sum(picture.split == split for picture in selection.pictures)
            notes.append(f"{split}: {listed:,} pictures of {', '.join(selection.lists[split])}")
        elif split == "test" or not fraction:
            notes.append(f"{split}: no list, so nothing is written")
    if fraction:
        held_out = splits["eval"].total.images if "eval" in splits else 0
        notes.append(f"eval: {held_out:,} of the train pictures, held out by content")
    return Report(
        lists=selection.lists,
        notes=tuple(notes),
        pictures=len(selection.pictures),
        rejected=len(result.rejected),
        splits=splits,
    )


def _check_splits(report: Report, fraction: float) -> None:
    wanted = {split for split in SPLITS if report.lists[split]} | ({"eval"} if fraction else set())
    for split in sorted(wanted - set(report.splits)):
        hint = "Name one for eval, or raise --eval-fraction" if split == "eval" else "Check it"
        raise DataError(f"no picture is left for {split}, so nothing was written. {hint}")


if __name__ == "__main__":
    sys.exit(main())

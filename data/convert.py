"""Command line: VOC folders or COCO annotations in, sharded and shuffled TFRecords out.

    ssd convert --voc VOCROOT --output DIR
    ssd convert --output DIR \
      --coco-annotations train=instances_train2017.json --images train2017 \
      --coco-annotations test=instances_val2017.json --images val2017

For VOC, the default is the paper's 07+12: the trainval lists of VOC2007 and VOC2012 (16,551
pictures) for training, VOC2007's test list (4,952) for testing. 2 % of the training pictures are
held out for eval, chosen by a hash of their content; `--eval LIST` names a list instead, and
`--eval-fraction 0` trains on all 16,551 and writes no eval split. In a folder without lists, all
annotated pictures are split 80/10/10 (`--split`).
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from google.protobuf import text_format
from rich.console import Console

from data import beam_runner, options
from data.beam_runner import IN_PROCESS
from data.coco import CocoSource, select_coco
from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.image_sets import Selection, select
from data.options import AUTO, FAIL, ConversionOptions
from data.output import whole_folder
from data.paths import check_no_wildcard, local_path
from data.problems import Unusable, wrapped
from data.report import REPORT_FILE, Report
from data.schema import VOC_SCHEMA, class_names, make_schema, read_schema
from data.settings import parse
from data.splits import SPLITS
from data.voc import read_annotation

SCHEMA_FILE = "schema.pbtxt"
_DEFAULT = ConversionOptions()


def convert(
    voc_root: Path | str,
    output: Path | str,
    options: ConversionOptions = _DEFAULT,
    *,
    seed: int = 0,
    beam_options: Sequence[str] = IN_PROCESS,
    console: Console | None = None,
    overwrite: bool = False,
) -> Report:
    """Writes DIR/{train,eval,test}/*.tfrecord.gz, DIR/schema.pbtxt and DIR/report.json.

    They appear together or not at all. DIR/rejected.jsonl lists what `options.on_error` leaves out.

    Args:
        voc_root: a VOCdevkit, the folder above it, or a labelling tool's folder
            (`data.voc_folders`).
        output: a folder that does not exist yet or is empty.
        options: how annotations are read and split.
        seed: for shuffling.
        beam_options: from `data.beam_runner.beam_arguments`.
        console: where to show progress, if anywhere.
        overwrite: whether to replace an earlier conversion's `output`.

    Raises:
        DataError: bad input or an unusable output folder.
    """
    selection = select(Path(voc_root), options)
    classes = options.classes or class_names(read_schema(VOC_SCHEMA))
    if options.classes == (AUTO,):
        classes = _found_classes(selection)
    return _write(
        selection, classes, False, Path(output), options, seed, beam_options, console, overwrite
    )


def convert_coco(
    sources: Sequence[CocoSource],
    output: Path | str,
    options: ConversionOptions = _DEFAULT,
    *,
    seed: int = 0,
    beam_options: Sequence[str] = IN_PROCESS,
    console: Console | None = None,
    overwrite: bool = False,
) -> Report:
    """Like `convert`, for COCO annotation files; by default with all their categories."""
    selection, categories = select_coco(sources, options)
    classes = options.classes or categories
    if options.classes == (AUTO,):
        classes = _found_classes(selection)
    return _write(
        selection, classes, True, Path(output), options, seed, beam_options, console, overwrite
    )


def _found_classes(selection: Selection) -> tuple[str, ...]:
    """The names of all objects, sorted."""
    names: set[str] = set()
    for picture in selection.pictures:
        try:
            annotation = picture.annotation or read_annotation(picture.annotation_path)
        except Unusable:
            continue  # the conversion reports it
        names.update(item.name for item in annotation.objects)
    if not names:
        raise DataError("--classes auto: no object in the annotations has a class")
    return tuple(sorted(names))


def _write(
    selection: Selection,
    classes: Sequence[str],
    with_crowds: bool,
    output: Path,
    options: ConversionOptions,
    seed: int,
    beam_options: Sequence[str],
    console: Console | None,
    overwrite: bool,
) -> Report:
    """Converts the selection into a folder that appears when it is complete."""
    check_no_wildcard(output)
    schema = make_schema(classes, with_crowds=with_crowds)
    decided = selection.shares or selection.lists["eval"]
    fraction = 0.0 if decided else options.eval_fraction
    with whole_folder(output, overwrite=overwrite) as folder:
        # Beam and TensorFlow take seconds to import; errors up to here appear at once.
        from data import conversion, outcome, progress

        marks = folder / "marks"
        plan = conversion.Plan(
            folder=folder,
            marks=marks,
            classes=class_names(schema),
            options=options,
            eval_fraction=fraction,
            shares=selection.shares,
            seed=seed,
            shards=conversion.shard_numbers(selection.pictures, fraction, selection.shares),
            only_check=options.on_error == FAIL and bool(selection.loose),
        )
        for name in (*SPLITS, "marks"):
            (folder / name).mkdir()
        totals = dict.fromkeys(("check", "write"), len(selection.pictures))
        with progress.watch(marks, totals, console) if console else nullcontext():
            result = conversion.run(selection.pictures, plan, beam_options)
        shutil.rmtree(marks)
        report = outcome.judge(selection, plan, result)
        for split in SPLITS:
            if split not in report.splits:
                (folder / split).rmdir()
        if options.on_error != FAIL:
            with (folder / "rejected.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in outcome.rows(selection, result))
        report.save(folder / REPORT_FILE)
        (folder / SCHEMA_FILE).write_text(text_format.MessageToString(schema), encoding="utf-8")
    return report


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line and returns its exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    values = options.options_of(given)
    if given.voc and given.images:
        parser.error("--images needs --coco-annotations")
    if given.coco_annotations and any(values.get(split) for split in SPLITS):
        parser.error("--train, --eval and --test need --voc. Write --coco-annotations SPLIT=FILE")
    if given.schema and "classes" in values:
        parser.error("give --schema or --classes, not both")
    quiet(given.verbose)
    if given.schema:
        values["classes"] = class_names(read_schema(given.schema))
    chosen = _options(values)
    common = {
        "seed": given.seed,
        "beam_options": beam_runner.arguments_of(given),
        "console": Console(stderr=True),
        "overwrite": given.overwrite,
    }
    if given.voc:
        report = convert(given.voc, given.output, chosen, **common)
    else:
        sources = _coco_sources(given.coco_annotations, given.images)
        report = convert_coco(sources, given.output, chosen, **common)
    console = Console(highlight=False)
    for line in (line for note in report.notes for line in wrapped(note)):
        console.print(line, markup=False, soft_wrap=True)
    console.print(report.table())
    for line in report.lines():
        console.print(line, markup=False, soft_wrap=True)
    if report.left_out:
        console.print(f"see {given.output / 'rejected.jsonl'}", markup=False, soft_wrap=True)
    console.print(f"wrote {given.output}", markup=False, soft_wrap=True)


def _options(values: dict[str, object]) -> ConversionOptions:
    try:
        return parse(ConversionOptions, values, lambda _: "--")
    except DataError as error:
        name, colon, message = str(error).partition(": ")
        raise DataError(f"{name.replace('_', '-')}{colon}{message}") from None


def _coco_sources(annotations: Sequence[Path], images: Sequence[Path]) -> list[CocoSource]:
    """Pairs the files of the command line, [SPLIT=]FILE, with the folders of their pictures."""
    if len(images) not in (1, len(annotations)):
        raise DataError(
            f"{len(annotations)} --coco-annotations but {len(images)} --images. Give one folder "
            "for all, or one for each in the same order"
        )
    sources = []
    for number, word in enumerate(annotations):
        split, _, file = str(word).partition("=")
        if split not in SPLITS or not file:
            if len(annotations) > 1:
                raise DataError(
                    f"--coco-annotations {word}: with several files, name the split of each: "
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
        help="a file such as instances_train2017.json, and its split (default: train); repeatable",
    )
    parser.add_argument(
        "--images",
        type=local_path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder with the pictures of --coco-annotations: one for each file, or one for all",
    )
    parser.add_argument(
        "--output", type=local_path, required=True, metavar="DIR", help="folder to create"
    )
    parser.add_argument(
        "--schema",
        type=local_path,
        metavar="FILE",
        help="schema that lists the classes, instead of --classes",
    )
    options.add_arguments(parser)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier conversion's output, entirely or not at all",
    )
    parser.add_argument("--seed", type=int, default=0, help="for shuffling (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    beam_runner.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

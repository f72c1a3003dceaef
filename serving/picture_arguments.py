"""The arguments that `serving.predict` and `serving.client` share, and what they do."""

import argparse
import os
import sys
from pathlib import Path

from data.errors import DataError
from serving.detecting import Ask, detect_all, report_failures
from serving.formats import FORMATS, open_format
from serving.picture_files import find_pictures
from serving.thresholds import DEFAULT, ScoreThresholds, parse_thresholds

# A separate folder, so that drawings do not mix with pictures.
_DRAWINGS = Path("detections")


def add_picture_arguments(parser: argparse.ArgumentParser, batch_help: str) -> None:
    """Adds the pictures, and what to write about them."""
    parser.add_argument(
        "images",
        nargs="*",
        metavar="PICTURE",
        help="files, folders (searched recursively) and patterns such as 'photos/**/*.jpg'",
    )
    parser.add_argument(
        "--list",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a text file with one picture's path per line; repeatable",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text, json (one line per picture), csv, coco, voc (XML for labelling tools) or comp4 "
        "(for ssd voc-map) (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="file for text, json, csv and coco (default: standard output); folder for voc and "
        "comp4 (default: the current one)",
    )
    drawing = parser.add_mutually_exclusive_group()
    drawing.add_argument(
        "--draw",
        type=Path,
        default=_DRAWINGS,
        metavar="DIR",
        help="folder for drawings (default: %(default)s)",
    )
    drawing.add_argument(
        "--no-draw", dest="draw", action="store_const", const=None, help="draw nothing"
    )
    parser.add_argument(
        "--score-threshold",
        metavar="SCORE",
        help="lowest score of the detections shown: 0.3 for all classes, cat:0.4,dog:0.2 for some, "
        f"or report for what the model's report recommends (default: {DEFAULT}; 0 with comp4, "
        "since average precision needs all)",
    )
    parser.add_argument("--batch-size", type=_positive, default=8, metavar="N", help=batch_help)


def thresholds_of(options: argparse.Namespace, model: Path | None = None) -> ScoreThresholds:
    """The thresholds that the arguments ask for; `model` is the folder of a pushed version."""
    if options.score_threshold is not None:
        return parse_thresholds(options.score_threshold, model)
    return ScoreThresholds(0.0 if options.format == "comp4" else DEFAULT)


def detect(options: argparse.Namespace, ask: Ask, thresholds: ScoreThresholds) -> int:
    """Detects, writes and draws as the arguments say; returns the exit status.

    Raises:
      DataError: the arguments name no pictures, the model cannot be reached, or results cannot be
        written.
    """
    files = find_pictures(options.images, options.list)
    if not files:
        raise DataError("no pictures. Name files, folders or patterns, or a --list")
    try:
        with open_format(options.format, options.output) as write:
            failed = detect_all(
                files,
                ask,
                write,
                batch_size=options.batch_size,
                thresholds=thresholds,
                drawings=options.draw,
            )
    except BrokenPipeError:
        # The reader (`head`, say) has seen enough. Python would flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return report_failures(failed, len(files))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)

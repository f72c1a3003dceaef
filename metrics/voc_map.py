"""Average precision of any detector on Pascal VOC, from its comp4_det_test_CLASS.txt files.

ssd voc-map --annotations DIR --image-set FILE --detections DIR
    [--year 2007|2012] [--json]

Each line of a detection file is `id score xmin ymin xmax ymax`, in pixels counted from 1.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data.command_line import Arguments, Parser, as_command
from metrics.detection_files import LINE, accumulate, file_name, read_folders
from metrics.voc import ClassResult, VocResult, evaluate

_RULES = {2007: "11-point AP", 2012: "area under the curve"}


def evaluate_folders(
    annotations: Path, image_set: Path, detections: Path
) -> tuple[VocResult, list[str]]:
    """Scores the detection files of a folder against the annotations of the listed pictures.

    Arguments, warnings and errors are as in `read_folders`.

    Returns:
        The scores and the warnings.
    """
    data = read_folders(annotations, image_set, detections)
    return evaluate(accumulate(data)), data.warnings


def as_table(result: VocResult, year: int) -> Table:
    """The result as a table for the terminal, AP in per cent.

    year: 2007 or 2012, which selects the AP rule.
    """
    table = Table(title=f"VOC{year} ({_RULES[year]}), IoU > 0.5")
    table.add_column("class")
    for header in ("AP %", "objects", "detections"):
        table.add_column(header, justify="right")
    for name, row in result.classes.items():
        table.add_row(
            name, _percent(_chosen(row, year)), f"{row.positives:,}", f"{row.detections:,}"
        )
    table.add_section()
    table.add_row(
        "mAP",
        _percent(_mean(result, year)),
        f"{sum(row.positives for row in result.classes.values()):,}",
        f"{sum(row.detections for row in result.classes.values()):,}",
        style="bold",
    )
    return table


def as_json(result: VocResult, year: int, warnings: Sequence[str]) -> str:
    """The result at full precision; AP is null for classes without objects to find."""
    document = {
        "year": year,
        "mAP": _number(_mean(result, year)),
        "mAP_11_point": _number(result.map_11_point),
        "mAP_area": _number(result.map_area),
        "classes": {
            name: {
                "AP": _number(_chosen(row, year)),
                "AP_11_point": _number(row.ap_11_point),
                "AP_area": _number(row.ap_area),
                "objects": row.positives,
                "detections": row.detections,
            }
            for name, row in result.classes.items()
        },
        "warnings": list(warnings),
    }
    return json.dumps(document, indent=1)


def _chosen(row: ClassResult, year: int) -> float:
    return row.ap_11_point if year == 2007 else row.ap_area


def _mean(result: VocResult, year: int) -> float:
    return result.map_11_point if year == 2007 else result.map_area


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line."""
    parser = Parser(
        description="Average precision of any detector on Pascal VOC, from its "
        f"{file_name('CLASS')} files (lines of `{LINE}`, pixels counted from 1).",
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="DIR", help="folder of the XML files"
    )
    parser.add_argument(
        "--image-set", type=Path, required=True, metavar="FILE", help="list of picture ids"
    )
    parser.add_argument(
        "--detections", type=Path, required=True, metavar="DIR", help="folder of detection files"
    )
    parser.add_argument(
        "--year",
        type=int,
        choices=sorted(_RULES),
        default=2007,
        help="the AP rule: 2007 is 11-point (default), 2012 the area under the curve",
    )
    parser.add_argument("--json", action="store_true", help="print JSON at full precision")
    args = parser.parse_args(arguments)
    result, warnings = evaluate_folders(args.annotations, args.image_set, args.detections)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if args.json:
        print(as_json(result, args.year, warnings))
    else:
        Console().print(as_table(result, args.year))


if __name__ == "__main__":
    sys.exit(main())

"""The command line: `python -m pipeline.runs [list | show RUN | trace MODEL | diff RUN RUN]`."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from data.errors import DataError
from pipeline.runs import questions, tables
from pipeline.runs.store import connect, find_run, read_runs


def main(arguments=None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        runs = read_runs(connect(options.metadata or str(options.output / "metadata.sqlite")))
        answer, show = _answer(options, runs)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(answer, indent=1))
    else:
        show(Console(highlight=False), answer)
    return 0


def _answer(options, runs):
    """What was asked for and the function that prints it."""
    match options.command:
        case "show":
            return questions.show(find_run(runs, options.run)), tables.print_run
        case "trace":
            return questions.trace(runs, options.model), tables.print_trace
        case "diff":
            pair = (find_run(runs, name) for name in options.runs)
            return questions.diff(*pair), tables.print_diff
    return [questions.summary(run) for run in runs], tables.print_runs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.runs",
        description="What ML Metadata knows of runs; nothing is changed. Without a command, lists "
        "them. RUN is a number of the list, the beginning of a run's name, or latest.",
    )
    _add_shared(parser, Path("output/sample"), None, False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    listing = commands.add_parser("list", help="when, preset, mAP, blessed, pushed version")
    show = commands.add_parser("show", help="what each component of a run read and wrote")
    show.add_argument("run", metavar="RUN")
    trace = commands.add_parser("trace", help="the data, code and settings that led to a model")
    trace.add_argument("model", metavar="MODEL", help="a version's folder or number")
    diff = commands.add_parser("diff", help="configuration, data and AP that differ")
    diff.add_argument("runs", metavar="RUN", nargs=2)
    # Also behind the command; there they have no default that would undo what stands before it.
    for command in (listing, show, trace, diff):
        _add_shared(command, *[argparse.SUPPRESS] * 3)
    return parser


def _add_shared(parser, output, metadata, as_json) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--output", type=Path, default=output, help="folder of the runs (default: output/sample)"
    )
    where.add_argument(
        "--metadata",
        metavar="STORE",
        default=metadata,
        help="mysql://user:password@host:port/database or an SQLite file, instead of --output",
    )
    parser.add_argument("--json", action="store_true", default=as_json, help="print JSON")


if __name__ == "__main__":
    sys.exit(main())

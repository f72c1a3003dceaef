"""The command line: `ssd runs [list | show | trace | diff | prune]`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from data.command_line import Arguments, Parser, as_command
from data.errors import DataError
from pipeline.runs import prune, questions, tables
from pipeline.runs.home import output_of
from pipeline.runs.store import Run, connect, find_run, read_runs, runs_of

_DEFAULT_OUTPUT = Path("output/sample")
_PIPED_WIDTH = 10_000


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    if options.metadata:
        runs = read_runs(connect(options.metadata))
    else:
        runs = runs_of(_output_folder(options))
    if options.command == "prune":
        _prune(options, runs)
        return
    answer, show = _answer(options, runs)
    if options.json:
        print(json.dumps(answer, indent=1))
    else:
        # Tables piped to another program must not be wrapped.
        wide = None if sys.stdout.isatty() else _PIPED_WIDTH
        show(Console(highlight=False, width=wide), answer)


def _prune(options: argparse.Namespace, runs: list[Run]) -> None:
    if options.metadata:
        raise DataError("--metadata: prune works on an output folder; name it with --output")
    removals = prune.plan(runs, _output_folder(options).resolve(), options.keep)
    gained = prune.sizes(removals)
    if not options.dry_run:
        prune.remove(removals)
    answer = {
        "folders": [str(removal.path) for removal in removals],
        "bytes": gained,
        "removed": not options.dry_run,
    }
    if options.json:
        print(json.dumps(answer, indent=1))
    else:
        tables.print_pruned(Console(highlight=False), answer)


def _output_folder(options: argparse.Namespace) -> Path:
    """The folder of the runs: the given one, or the one that contains the model."""
    if options.output:
        return options.output
    if options.command == "trace" and (found := output_of(Path(options.model))):
        return found
    return _DEFAULT_OUTPUT


def _answer(
    options: argparse.Namespace, runs: list[Run]
) -> tuple[Any, Callable[[Console, Any], None]]:
    """The answer and the function that prints it."""
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
    parser = Parser(
        description="Inspects the runs in ML Metadata; without a command, lists them. Only prune "
        "changes anything. RUN is a number from the list, a run's name, or latest.",
    )
    _add_shared(parser, None, None, False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    listing = commands.add_parser("list", help="when, preset, mAP, blessed, pushed version")
    show = commands.add_parser("show", help="what each component of a run read and wrote")
    show.add_argument("run", metavar="RUN")
    trace = commands.add_parser("trace", help="the data, code and settings that led to a model")
    trace.add_argument("model", metavar="MODEL", help="a version's folder or number")
    diff = commands.add_parser("diff", help="configuration, data and AP that differ")
    diff.add_argument("runs", metavar="RUN", nargs=2)
    pruning = commands.add_parser("prune", help="free disk space used by older runs")
    pruning.add_argument(
        "--keep",
        type=_at_least_one,
        required=True,
        metavar="N",
        help="keep all of the last N runs",
    )
    pruning.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    # Also allowed after the command, without defaults that would override options before it.
    for command in (listing, show, trace, diff, pruning):
        _add_shared(command, *[argparse.SUPPRESS] * 3)
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _add_shared(
    parser: argparse.ArgumentParser,
    output: Path | str | None,
    metadata: str | None,
    as_json: bool | str,
) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--output",
        type=Path,
        default=output,
        help=f"folder of the runs (default: the one with the model, else {_DEFAULT_OUTPUT})",
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

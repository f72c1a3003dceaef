"""Runs the pipeline on this machine: `python local_runner.py`."""

import argparse
import sys
import webbrowser
from pathlib import Path

from data.beam_runner import add_arguments, arguments_of
from data.console import quiet
from data.errors import exit_status
from data.paths import local_path
from pipeline.config import DEFAULT_PRESET, PRESETS, load_config


def main(arguments=None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    quiet(options.verbose)
    try:
        config = load_config(options.preset, options.set)
        beam_args = arguments_of(options)
        # TFX takes seconds to import; mistakes in the options are answered at once.
        from pipeline.local import run

        report = run(
            config,
            data=options.data,
            output=options.output or Path("output") / config.preset,
            from_component=options.from_component,
            enable_cache=not options.no_cache,
            beam_args=beam_args,
            name=options.name,
        )
        if options.open and report:
            webbrowser.open(report.as_uri())
    except Exception as error:
        return exit_status(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="VOC folders or TFRecords in, an evaluated, blessed and pushed SSD model out.",
        epilog="Options after -- go to Beam, as in: --beam multiprocess -- --direct_num_workers=4",
    )
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help=f"{', '.join(PRESETS)} (default: %(default)s, which draws its own pictures)",
    )
    parser.add_argument(
        "--data",
        type=local_path,
        help="a VOC root, a folder of TFRecords, or spans as records/span-{SPAN}/version-{VERSION}",
    )
    parser.add_argument(
        "--output", type=local_path, help="folder of the run (default: output/PRESET)"
    )
    parser.add_argument(
        "--name", help="what lists of runs call this one (default: the data set and the preset)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.FIELD=VALUE",
        help="override a value of the preset, as in trainer.batch_size=16; repeatable",
    )
    parser.add_argument(
        "--from",
        dest="from_component",
        metavar="COMPONENT",
        help="run again from this component on, with what the last run made before it",
    )
    parser.add_argument("--no-cache", action="store_true", help="run every component again")
    parser.add_argument("--open", action="store_true", help="open the report in a browser")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

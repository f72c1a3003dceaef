"""Runs the pipeline on this machine: `ssd run`."""

import argparse
import sys
import webbrowser

from data.beam_runner import add_arguments, arguments_of
from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.interrupts import when_interrupted
from data.paths import local_path


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line."""
    # Imported here so that Ctrl-C during a slow import ends the command cleanly too.
    from pipeline.arguments import add_config_arguments, read_local_config

    parser = _parser()
    add_config_arguments(parser, "trainer.batch_size=16")
    options = parser.parse_args(arguments)
    quiet(options.verbose)
    config = read_local_config(options, options.data, options.output)
    beam_args = arguments_of(options)
    with when_interrupted(lambda: "rerun the same command; finished components are not run again"):
        # TFX takes seconds to import, so the options are checked first.
        from pipeline.local import run

        report = run(
            config,
            from_component=options.from_component,
            enable_cache=not options.no_cache,
            beam_args=beam_args,
            name=options.name,
        )
    if options.open and report:
        webbrowser.open(report.as_uri())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="VOC folders or TFRecords in, an evaluated, blessed and pushed SSD model out.",
        epilog="Options after -- go to Beam, as in: --beam multiprocess -- --direct_num_workers=4",
    )
    parser.add_argument(
        "--data",
        type=local_path,
        help="folder of annotated pictures (docs/annotations.md) or TFRecords, or spans, as in "
        "records/span-{SPAN}/version-{VERSION}",
    )
    parser.add_argument(
        "--output",
        type=local_path,
        help="output folder (default: the one in --config, else output/PRESET)",
    )
    parser.add_argument(
        "--name", help="name of the run in `ssd runs` (default: data set and preset)"
    )
    parser.add_argument(
        "--from",
        dest="from_component",
        metavar="COMPONENT",
        help="rerun from this component on, with the last run's outputs of everything before it",
    )
    parser.add_argument("--no-cache", action="store_true", help="rerun every component")
    parser.add_argument("--open", action="store_true", help="open the report in a browser")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

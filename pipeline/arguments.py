"""The options that configure a run, for every command that takes a configuration."""

import argparse
from pathlib import Path

from data.paths import local_path
from pipeline.config import DEFAULT_PRESET, PRESETS, Config, load_config, with_places


def add_config_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds `--preset`, `--config` and `--set`; `example` is a value for the help of `--set`."""
    parser.add_argument(
        "--preset",
        help=f"{', '.join(PRESETS)} (default: the one in --config, else {DEFAULT_PRESET}, which "
        "draws its own pictures)",
    )
    parser.add_argument(
        "--config",
        type=local_path,
        metavar="FILE",
        help="YAML with settings that override the preset's, or the file of an earlier run",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.FIELD=VALUE",
        help=f"override a setting, as in {example}; repeatable, wins over --config",
    )


def read_config(options: argparse.Namespace) -> Config:
    """The configuration from the options of `add_config_arguments`."""
    return load_config(options.preset, options.set, options.config)


def read_local_config(
    options: argparse.Namespace, data: Path | None, output: Path | None = None
) -> Config:
    """The configuration of a run on this machine, with its data, output folder and absolute paths.

    If --config is the file of an earlier run, the output folder defaults to the one it is in, even
    after a move.
    """
    home = None
    if options.config and output is None:
        from pipeline.runs.home import home_of  # ML Metadata is slow to import

        home = home_of(options.config)
    return with_places(read_config(options), data, output or home)

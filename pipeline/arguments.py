"""The options that configure a run, for every command that takes a configuration."""

import argparse
from pathlib import Path

from data.paths import local_path
from pipeline.config import DEFAULT_PRESET, PRESETS, Config, load_config, with_places


def add_config_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds `--preset`, `--config` and `--set`; `example` is a part.field=value of the last."""
    parser.add_argument(
        "--preset",
        help=f"{', '.join(PRESETS)} (default: that of --config, else {DEFAULT_PRESET}, which draws "
        "its own pictures)",
    )
    parser.add_argument(
        "--config",
        type=local_path,
        metavar="FILE",
        help="YAML with settings that differ from the preset's, or the file of an earlier run",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.FIELD=VALUE",
        help=f"override a setting, as in {example}; repeatable, wins over --config",
    )


def read_config(options: argparse.Namespace) -> Config:
    """The configuration that the options of `add_config_arguments` ask for."""
    return load_config(options.preset, options.set, options.config)


def read_local_config(
    options: argparse.Namespace, data: Path | None, output: Path | None = None
) -> Config:
    """The same for a run on this machine: with its data, its folder and absolute paths.

    The file of an earlier run stands for the folder that it lies in, also where that was moved.
    """
    home = None
    if options.config and output is None:
        from pipeline.runs.home import home_of  # ML Metadata takes long to import

        home = home_of(options.config)
    return with_places(read_config(options), data, output or home)

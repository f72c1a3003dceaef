"""Command line: draws augmented training pictures, with objects and matched anchors.

ssd contact-sheet --data RECORDS --preset ssd300-voc --output sheet.png
"""

import argparse
import sys
import tempfile
from pathlib import Path

from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.paths import local_path
from data.splits import TRAIN
from pipeline.arguments import add_config_arguments, read_local_config


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    quiet(options.verbose)
    _draw(options)
    print(f"wrote {options.output}")


def _draw(options: argparse.Namespace) -> None:
    if options.output.suffix.lower() != ".png":
        raise DataError(f"--output {options.output}: give a name that ends in .png")
    if options.count < 1 or options.epoch < 0:
        raise DataError("--count must be at least 1, and --epoch at least 0")
    config = read_local_config(options, options.data)
    # TFX and TensorFlow take seconds to import, so the options are checked first.
    from data.schema import read_schema
    from pipeline.inputs import prepare
    from trainer.contact_sheet import draw_contact_sheet
    from trainer.input_pipeline import list_shards
    from trainer.schema_records import SchemaRecords

    with tempfile.TemporaryDirectory() as folder:
        inputs = prepare(config, config.data.root, Path(folder))
        if inputs.schema_path is None:
            raise DataError("the classes are unknown. Name a schema: --set data.schema=PATH")
        sheet = draw_contact_sheet(
            list_shards([str(inputs.records / inputs.patterns[TRAIN])]),
            SchemaRecords(read_schema(inputs.schema_path)),
            inputs.classes,
            config.trainer,
            options.count,
            options.epoch,
        )
    partial = options.output.with_name(f".{options.output.name}.partial.png")
    try:
        sheet.save(partial)
        partial.rename(options.output)
    except OSError as error:
        raise DataError(f"{options.output}: cannot write there ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Draws training pictures as the network sees them: augmented, with the boxes "
        "of objects (thick) and the anchors matched to them (thin).",
    )
    parser.add_argument("--data", type=local_path, help="a VOC root or a folder of TFRecords")
    parser.add_argument(
        "--output", type=local_path, required=True, metavar="PNG", help="file to write"
    )
    add_config_arguments(parser, "trainer.augmentation=hikapok")
    parser.add_argument(
        "--count", type=int, default=16, help="number of pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--epoch", type=int, default=0, help="epoch to draw, from 0 (default: %(default)s)"
    )
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    return parser


if __name__ == "__main__":
    sys.exit(main())

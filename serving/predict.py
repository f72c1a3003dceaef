"""Detects objects in pictures with a pushed model, without a server.

ssd predict PICTURE... --model DIR [--format FORMAT] [--draw DIR]
ssd predict PICTURE... --model DIR --beam multiprocess --output DIR
ssd predict --records TFRECORDS --model DIR --beam multiprocess --output DIR
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from data.beam_runner import PRESETS, beam_arguments, workers_in_words
from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.problems import counted
from data.saved_model import DEFAULT_SIGNATURE, OUTPUTS
from serving.detecting import Refused
from serving.picture_arguments import add_picture_arguments, detect, thresholds_of
from serving.picture_files import PictureFile, find_pictures
from serving.thresholds import ScoreThresholds
from serving.version_folders import newest_version


class SavedModelDetector:
    """A detector loaded from a version folder, or from the newest version in a base folder."""

    def __init__(self, model: Path) -> None:
        import tensorflow as tf

        self.folder = newest_version(model)
        try:
            self._model = tf.saved_model.load(str(self.folder))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise DataError(
                f"{self.folder}: the model does not load ({_first_line(error)}). Push it again."
            ) from error
        signature = self._model.signatures.get(DEFAULT_SIGNATURE)
        inputs = signature.structured_input_signature[1] if signature else {}
        if set(inputs) != {"image_bytes"} or not set(OUTPUTS) <= set(signature.structured_outputs):
            found = ", ".join(sorted(self._model.signatures)) or "none"
            raise DataError(
                f"{self.folder}: no signature serving_default from image_bytes to "
                f"{', '.join(OUTPUTS)} (signatures found: {found}). Give a model that this "
                "pipeline has pushed."
            )
        self._signature = signature

    def detect(self, pictures: Sequence[bytes]) -> list[dict[str, np.ndarray]]:
        """One dict of OUTPUTS for each encoded picture, without a batch axis.

        Raises Refused if TensorFlow cannot decode one of them.
        """
        import tensorflow as tf

        try:
            outputs = self._signature(image_bytes=tf.constant(list(pictures)))
        except tf.errors.InvalidArgumentError as error:
            raise Refused(
                f"the model cannot decode the picture ({_first_line(error)}). Save it as an RGB or "
                "grey JPEG or PNG"
            ) from error
        arrays = {name: outputs[name].numpy() for name in OUTPUTS}
        return [{name: array[i] for name, array in arrays.items()} for i in range(len(pictures))]


# Failures shown on standard error; the output lists all of them.
_SHOWN_FAILURES = 10


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@as_command
def main(arguments: Arguments = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_picture_arguments(parser, "pictures per batch (default: %(default)s)")
    parser.add_argument(
        "--model", type=Path, required=True, help="a version folder, or the folder of all versions"
    )
    many = parser.add_argument_group("many pictures, as a Beam pipeline")
    many.add_argument(
        "--beam",
        choices=PRESETS,
        help="where Beam runs: direct (in this process), multiprocess (a process per CPU core), or "
        "on a cluster; Beam's own options follow -- (docs/beam.md). Writes JSON lines to files in "
        "the folder --output",
    )
    many.add_argument(
        "--records",
        action="append",
        default=[],
        metavar="TFRECORDS",
        help="TFRecords with pictures: files, folders and patterns; repeatable; needs --beam",
    )
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    words, beam_options = _split(sys.argv[1:] if arguments is None else list(arguments))
    options = parser.parse_args(words)
    if options.records and not options.beam:
        parser.error("--records needs --beam, as in --beam direct")
    if options.beam:
        if not options.output:
            parser.error("--beam needs --output, a new folder")
        if options.format not in ("text", "json"):
            parser.error(f"--beam writes JSON lines: leave out --format {options.format}")
        if options.draw not in (None, parser.get_default("draw")):
            parser.error("--beam draws nothing: leave out --draw")
    quiet(options.verbose)
    thresholds = thresholds_of(options, newest_version(options.model))
    if options.beam:
        return _predict_on_beam(options, thresholds, beam_options)
    return detect(options, SavedModelDetector(options.model).detect, thresholds)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and Beam's options: with --beam, the words after `--`."""
    end = words.index("--") if "--" in words else len(words)
    if any(word.partition("=")[0] == "--beam" for word in words[:end]):
        return words[:end], words[end + 1 :]
    return words, []


def _predict_on_beam(
    options: argparse.Namespace, thresholds: ScoreThresholds, beam_options: Sequence[str]
) -> int:
    beam_args = beam_arguments(options.beam, beam_options)
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise DataError(f"{options.output}: exists already. Give another --output")
    pictures = find_pictures(options.images, options.list)
    model = SavedModelDetector(options.model).folder  # fails here rather than in a worker
    from serving.batch_prediction import FAILURES, find_records, predict_on_beam

    records = find_records(options.records)
    sources: list[PictureFile | Path] = [*pictures, *records]
    if not sources:
        raise DataError("no pictures. Name files, folders or patterns, a --list or --records")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    given = [counted(len(pictures), "picture")] if pictures else []
    given += [f"the pictures of {counted(len(records), 'TFRecord file')}"] if records else []
    console.print(
        f"detecting in {' and '.join(given)}, {workers_in_words(options.beam, beam_args)}"
    )
    started = time.monotonic()
    written = predict_on_beam(
        sources,
        model,
        options.output,
        thresholds=thresholds,
        batch_size=options.batch_size,
        beam_options=beam_args,
        console=console,
    )
    seconds = time.monotonic() - started
    print(
        f"wrote {options.output}: {counted(written.pictures, 'picture')} in "
        f"{counted(written.shards, 'file')}, {seconds:.1f} s, "
        f"{written.pictures / seconds:.1f} pictures/s including start-up"
    )
    for failure in written.failures[:_SHOWN_FAILURES]:
        print(f"error: {failure.error}", file=sys.stderr)
    if written.failures:
        print(f"{len(written.failures):,} failed: see {options.output / FAILURES}", file=sys.stderr)
    return 1 if written.failures else 0


if __name__ == "__main__":
    sys.exit(main())

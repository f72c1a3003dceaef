"""Detects objects in pictures with a pushed model, in this process, without a server.

python -m serving.predict PICTURE... --model DIR [--format FORMAT] [--draw DIR]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.saved_model import DEFAULT_SIGNATURE, OUTPUTS
from serving.detecting import Refused
from serving.picture_arguments import add_picture_arguments, detect, thresholds_of
from serving.version_folders import newest_version


class SavedModelDetector:
    """A SavedModel that answers for pictures, loaded from a version folder or its base folder."""

    def __init__(self, model: Path):
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
        """The outputs for encoded pictures, one dict of OUTPUTS a picture, without a batch axis.

        Raises Refused where TensorFlow cannot decode one of them.
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@as_command
def main(arguments: Arguments = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_picture_arguments(parser, "pictures that go through the model at a time (default: 8)")
    parser.add_argument(
        "--model", type=Path, required=True, help="a version folder, or the folder of all versions"
    )
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    options = parser.parse_args(arguments)
    quiet(options.verbose)
    thresholds = thresholds_of(options, newest_version(options.model))
    return detect(options, SavedModelDetector(options.model).detect, thresholds)


if __name__ == "__main__":
    sys.exit(main())

"""Detects objects in pictures with a pushed model, in this process, without a server.

python -m serving.predict IMAGE... --model DIR [--output DIR] [--json]
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from data.console import quiet
from data.errors import DataError
from data.saved_model import DEFAULT_SIGNATURE, OUTPUTS
from serving.detections import (
    Prediction,
    detections_of,
    drawing_paths,
    print_results,
    save_drawing,
)
from serving.drawing import open_picture
from serving.versions import newest_version


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

    def detect(self, image_bytes: bytes) -> dict[str, np.ndarray]:
        """The outputs for one encoded picture, without the batch dimension.

        Raises DataError where TensorFlow cannot decode the picture.
        """
        import tensorflow as tf

        try:
            outputs = self._signature(image_bytes=tf.constant([image_bytes]))
        except tf.errors.InvalidArgumentError as error:
            raise DataError(
                f"the model cannot decode the picture ({_first_line(error)}). Save it as an RGB or "
                "grey JPEG or PNG."
            ) from error
        return {name: outputs[name].numpy()[0] for name in OUTPUTS}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def predict(
    images: list[Path], model: Path, output: Path, score_threshold: float
) -> list[Prediction]:
    """Detects, draws and saves picture after picture.

    Paths, pictures and model are checked before the first drawing is written. Raises DataError.
    """
    drawings = drawing_paths(images, output)
    for image in images:
        open_picture(image)
    detector = SavedModelDetector(model)
    results = []
    for image, drawing in zip(images, drawings, strict=True):
        try:
            outputs = detector.detect(image.read_bytes())
        except DataError as error:
            raise DataError(f"{image}: {error}") from error
        detections = detections_of(outputs, score_threshold)
        save_drawing(open_picture(image), detections, drawing)
        results.append(Prediction(image, drawing, detections))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--model", type=Path, required=True, help="a version folder, or the folder of all versions"
    )
    parser.add_argument("--output", type=Path, default=Path(), help="folder of the drawings")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--score-threshold", type=float, default=0.5)
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    args = parser.parse_args()
    quiet(args.verbose)
    try:
        results = predict(args.images, args.model, args.output, args.score_threshold)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_results(results, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

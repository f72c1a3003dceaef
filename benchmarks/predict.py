"""Pictures per second of `ssd predict`, compared with bare loops over the exported model.

    python -m benchmarks.predict [--rounds N] [--json FILE]

The loops run the model on the same pictures in the same batches, decoded beforehand in one loop and
by the model in the other; neither reads nor writes files. Weights are random, and loading the model
is not timed.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import Bound, report
from benchmarks.side_by_side import Task, measure, ratio
from data.saved_model import DEFAULT_SIGNATURE, TENSOR_SIGNATURE

# Pictures per round: for a light network, where overhead weighs most, and for the paper's.
_PICTURES = {"sample": 512, "ssd300-voc": 64}
_CLASSES = 20
_SIZE = 500, 375  # of most of VOC's
_LEAST = 0.9
_DECODED, _ENCODED = "bare loop, decoded", "bare loop, encoded"
_PREDICT = "ssd predict --no-draw"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    rows, bounds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for preset, count in _PICTURES.items():
            place = Path(folder, preset)
            draw_pictures(place / "pictures", count)
            # In a separate process, so that this one stays small (side_by_side).
            exporting = multiprocessing.get_context("spawn").Process(
                target=_export, args=(preset, place)
            )
            exporting.start()
            exporting.join()
            if exporting.exitcode:
                return 1
            tasks = {
                _DECODED: Task(bare_loop, (place, TENSOR_SIGNATURE)),
                _ENCODED: Task(bare_loop, (place, DEFAULT_SIGNATURE)),
                _PREDICT: Task(predict, (place,)),
            }
            measured = measure(tasks, options.rounds)
            rows += [
                {
                    "what": f"{preset}, {name}",
                    "pictures a second": count / found.median,
                    "peak memory MiB": found.peak_mib,
                }
                for name, found in measured.items()
            ]
            # Decoding costs as much as a light network, so only the paper's can hide it.
            loops = [_ENCODED] if preset == "sample" else [_ENCODED, _DECODED]
            bounds += [
                Bound(
                    f"{preset}, {_PREDICT} to {loop}",
                    ratio(measured[loop], measured[_PREDICT]),
                    least=_LEAST,
                )
                for loop in loops
            ]
    return report("predict", rows, bounds, options.json)


def draw_pictures(folder: Path, count: int) -> None:
    """Writes different JPEGs of one size, with detail to decode."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (30, 40, 3), np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC))
        noisy = picture + random.normal(0, 8, picture.shape)
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number:04}.jpg", quality=90)


def bare_loop(place: Path, signature: str) -> Callable[[], object]:
    """An action that runs a signature on `place/pictures`, from memory, in predict's batches."""
    import tensorflow as tf

    from data.saved_model import OUTPUTS

    model = tf.saved_model.load(str(place / "model"))
    run_model = model.signatures[signature]
    files = sorted((place / "pictures").iterdir())
    if signature == TENSOR_SIGNATURE:
        name, pictures = "images", np.stack([np.asarray(Image.open(file)) for file in files])
    else:
        name, pictures = "image_bytes", np.array([file.read_bytes() for file in files], object)
    size = _options(place).batch_size
    batches = [tf.constant(pictures[i : i + size]) for i in range(0, len(pictures), size)]

    def run() -> None:
        for batch in batches:
            outputs = run_model(**{name: batch})
            for output in OUTPUTS:
                outputs[output].numpy()

    run.model = model  # type: ignore[attr-defined]  # kept: its functions hold only weak references
    return run


def predict(place: Path) -> Callable[[], object]:
    """An action like `ssd predict --no-draw --format json`, with a loaded model."""
    from serving.picture_arguments import detect, thresholds_of
    from serving.predict import SavedModelDetector

    options = _options(place)
    detector = SavedModelDetector(place / "model")

    def run() -> None:
        status = detect(options, detector.detect, thresholds_of(options))
        if status:
            raise RuntimeError("pictures failed, so the measurement is invalid")

    return run


def _options(place: Path) -> argparse.Namespace:
    from serving.picture_arguments import add_picture_arguments

    parser = argparse.ArgumentParser()
    add_picture_arguments(parser, "")
    words = [place / "pictures", "--no-draw", "--format", "json", "--output", place / "found.jsonl"]
    return parser.parse_args([str(word) for word in words])


def _export(preset: str, place: Path) -> None:
    from benchmarks.serving_models import export_untrained
    from data.console import quiet

    quiet()
    picture = next((place / "pictures").iterdir()).read_bytes()
    export_untrained(preset, _CLASSES, place / "model", picture)


if __name__ == "__main__":
    sys.exit(main())

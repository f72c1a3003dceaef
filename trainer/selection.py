"""Selects the weights to export: those with the best mAP on the eval split.

The Evaluator's gate uses the same metric.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data.errors import DataError
from data.record_folder import read_records
from data.saved_model import BOXES, CLASSES, COUNT, SCORES
from metrics import voc
from metrics.accumulator import DetectionAccumulator
from trainer import checkpoints
from trainer.files import BEST_FILE
from trainer.input_pipeline import TransformedRecords
from trainer.preprocessing import RECORD_ID

# With fewer pictures, comparing two checkpoints' mAP says little.
FEW_PICTURES = 30
# Records per call of the detector.
_BATCH = 64


class Best(NamedTuple):
    """The step with the best weights so far, and their mAP on the eval split."""

    step: int
    score: float


class EvalSplit:
    """The eval split, for measuring a detector during training."""

    def __init__(
        self, files: Sequence[str], records: TransformedRecords, class_names: Sequence[str]
    ) -> None:
        """Reads the ground truth; pictures are read again for each measurement.

        Args:
          files: TFRecord shards.
          records: reads them.
          class_names: in the order of their ids 1..N.

        Raises:
          DataError: no object counts, so there is no mAP.
        """
        self._batches = read_records(files).batch(_BATCH)
        self._class_names = tuple(class_names)
        self._truth = [truth for batch in self._batches for truth in _ground_truth(records(batch))]
        if all(difficult.all() for *_, difficult in self._truth):
            raise DataError(
                f"{Path(files[0]).parent}: the eval split has no object that counts, so no "
                "checkpoint can be chosen on it. Set trainer.eval_every=0 to export the last one"
            )

    @property
    def num_pictures(self) -> int:
        """Number of pictures that the mAP is measured on."""
        return len(self._truth)

    def mean_average_precision(
        self, detect: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
    ) -> float:
        """VOC2007's 11-point mAP of a detector.

        Args:
          detect: maps serialised examples, string [batch], to the outputs of `data.saved_model`.

        Raises:
          DataError: a box is invalid or a score is not a number.
        """
        accumulator = DetectionAccumulator(self._class_names)
        truths = iter(self._truth)
        for batch in self._batches:
            found = {name: values.numpy() for name, values in detect(batch).items()}
            for row, count in enumerate(found[COUNT]):
                accumulator.add(
                    *next(truths),
                    found[BOXES][row, :count],
                    found[SCORES][row, :count],
                    found[CLASSES][row, :count] - 1,
                )
        return float(voc.evaluate(accumulator).map_11_point)


def _ground_truth(
    values: Mapping[str, tf.Tensor],
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """(id, boxes [n, 4], classes [n] from 0, difficult [n]) of each picture of a batch."""
    ids, boxes, labels, difficult = (
        values[name].numpy() for name in (RECORD_ID, "boxes", "labels", "difficult")
    )
    for row, record_id in enumerate(ids):
        real = labels[row] > 0
        yield record_id.decode(), boxes[row][real], labels[row][real] - 1, difficult[row][real]


def keep_if_best(
    folder: Path, step: int, score: float, variables: Sequence[keras.Variable]
) -> bool:
    """Keeps the weights of `step` unless a better step is kept; of ties, the later one.

    Weights, step and score are in one file that is replaced atomically, so a killed run leaves the
    old or the new one. Repeating a step gives the same result.
    """
    best = _read(folder, [])
    if best and best[0].score > score:
        return False
    arrays = checkpoints.as_arrays(variables)
    checkpoints.write(folder / BEST_FILE, {**arrays, "step": step, "score": score})
    return True


def best_in(folder: Path) -> Best | None:
    """The step kept as the best, if any."""
    found = _read(folder, [])
    return found[0] if found else None


def restore_best(folder: Path, variables: Sequence[keras.Variable]) -> Best | None:
    """Loads the best weights into `variables`; if there are none, changes nothing.

    Ignores a damaged file with a warning.
    """
    found = _read(folder, [checkpoints.key(i, v) for i, v in enumerate(variables)])
    if found is None:
        return None
    best, values = found
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return best


def _read(folder: Path, names: list[str]) -> tuple[Best, list[np.ndarray]] | None:
    path = folder / BEST_FILE
    stored = checkpoints.read(path, ["step", "score", *names]) if path.exists() else None
    if stored is None:
        return None
    step, score, *values = stored
    return Best(int(step), float(score)), values

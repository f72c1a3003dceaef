"""Training curves from TensorBoard's event files."""

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

# More points than pixels would only make the file larger.
_MOST_POINTS = 400


def read_curves(log_dir: str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each scalar by tag; empty without event files.

    If a step was trained twice, as in a resumed run, the last value counts.
    """
    if not tf.io.gfile.isdir(log_dir):
        return {}
    events = EventAccumulator(log_dir, size_guidance={TENSORS: 0})
    events.Reload()
    curves = {}
    for tag in events.Tags()[TENSORS]:
        values = {event.step: tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}
        points = [(step, float(value)) for step, value in sorted(values.items()) if not value.shape]
        chosen = np.unique(np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int))
        curves[tag] = [points[index] for index in chosen] if points else []
    return curves

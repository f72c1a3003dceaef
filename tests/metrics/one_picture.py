"""The features of a record with one cat, and a model's answer, as arrays."""

import numpy as np


def answer(boxes=(), scores=(), names=(), count=None):
    return {
        "detection_boxes": np.reshape(np.array(boxes, np.float32), (-1, 4)),
        "detection_scores": np.array(scores, np.float32),
        "detection_class_names": np.array([name.encode() for name in names], object),
        "num_detections": np.array([len(scores) if count is None else count]),
    }


def record(**changes):
    features = {
        "image/source_id": np.array([b"p7"], object),
        "image/height": np.array([200]),
        "image/width": np.array([300]),
        "image/object/class/text": np.array([b"cat"], object),
        "image/object/difficult": np.array([0]),
    }
    for name, edge in zip(("ymin", "xmin", "ymax", "xmax"), (0.1, 0.1, 0.5, 0.5), strict=True):
        features[f"image/object/bbox/{name}"] = np.array([edge], np.float32)
    return features | changes

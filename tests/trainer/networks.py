"""Builds whole networks and compares their outputs."""

import numpy as np

from trainer.config import TrainerConfig
from trainer.detector import build_network, detector_spec

_TOLERANCE = 1e-4


def build(detector="ssd300-vgg16", anchors="paper", classes=20):
    """A network with random weights, and its spec."""
    spec = detector_spec(TrainerConfig(detector=detector, anchors=anchors))
    return build_network(spec, classes), spec


def assert_close(found, wanted):
    """Asserts equality to 1e-4 of the value, or of the standard deviation for values near zero."""
    np.testing.assert_allclose(found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE * np.std(wanted))

"""`python -m trainer.worker` with a tiny detector: `python tiny_worker.py --config FILE`.

VIRTUAL_DEVICES in the environment splits the CPU into as many devices. KILL_AT is a step after
which the process kills itself as `kill -9` does, before it writes that step's checkpoint.
"""

import os
import signal
import sys

from data.console import quiet

quiet()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from trainer import detector, training, worker  # noqa: E402
from trainer.anchors import AnchorSpec  # noqa: E402


def _maps(images):
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32")(images)
    maps = []
    for stride in (8, 2):
        x = keras.layers.Conv2D(8, stride, strides=stride, name=f"conv{stride}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{stride}")(x)
        x = keras.layers.ReLU()(x)
        maps.append(x)
    return maps


def _kill_after(last: int) -> None:
    check = training._check_finite

    def check_or_kill(step, losses):
        check(step, losses)
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    training._check_finite = check_or_kill


if __name__ == "__main__":
    detector._DETECTORS[("ssd128-small", "paper")] = detector.DetectorSpec(
        _maps, AnchorSpec(32, (4, 2), (8, 16), (8, 16), (16, 28), ((2,), (2,)))
    )
    if "VIRTUAL_DEVICES" in os.environ:
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * int(os.environ["VIRTUAL_DEVICES"])
        tf.config.set_logical_device_configuration(cpu, parts)
    if "KILL_AT" in os.environ:
        _kill_after(int(os.environ["KILL_AT"]))
    sys.exit(worker.main())

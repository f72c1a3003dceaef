"""`python -m trainer.worker` with a tiny detector: `python tiny_worker.py --config FILE`.

Environment variables: VIRTUAL_DEVICES is the number of devices to split the CPU into. KILL_AT is a
step after which the process kills itself like `kill -9`, before writing that step's checkpoint.
FIRST_PORT moves the ports of a Job's workers, which two tests must not share.
"""

import os
import signal
import sys

from data.console import quiet

quiet()

import tensorflow as tf  # noqa: E402

from tests.trainer.tiny import TINY  # noqa: E402
from trainer import model_zoo, training, worker  # noqa: E402
from trainer.backbones import small  # noqa: E402


def _kill_after(last: int) -> None:
    check = training._check_finite

    def check_or_kill(step, losses):
        check(step, losses)
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    training._check_finite = check_or_kill


def main(arguments=None) -> int:
    """Trains as set by the environment; returns the exit status."""
    model_zoo.DETECTORS["ssd128-small"] = model_zoo.Detector("small", {"paper": TINY.anchors})
    small.feature_maps = TINY.feature_maps
    if "VIRTUAL_DEVICES" in os.environ:
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * int(os.environ["VIRTUAL_DEVICES"])
        tf.config.set_logical_device_configuration(cpu, parts)
    worker.FIRST_PORT = int(os.environ.get("FIRST_PORT", worker.FIRST_PORT))
    if "KILL_AT" in os.environ:
        _kill_after(int(os.environ["KILL_AT"]))
    return worker.main(arguments)


if __name__ == "__main__":
    sys.exit(main())

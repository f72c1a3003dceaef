"""The installable package: what Beam workers and the container image install.

TFX and what comes with it are pinned in requirements.lock, not here, so that the package installs
in any environment that has TFX.
"""

from setuptools import setup

setup(
    name="ssd-tfx",
    version="0.1.0",
    description="SSD object detection as a TFX pipeline: VOC folders in, a blessed model out",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "components",
        "components.data_gate",
        "components.mean_average_precision",
        "data",
        "pipeline",
        "serving",
        "trainer",
        "trainer.backbones",
        "trainer.weights",
    ],
    package_data={"data": ["schemas/*.pbtxt"]},
    py_modules=["local_runner"],
    install_requires=["defusedxml", "pillow", "rich"],
)

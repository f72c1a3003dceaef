"""The installable package: what Beam workers and the container image install.

TFX and what comes with it are pinned in requirements.lock, not here, so that the package installs
in any environment that has TFX.
"""

from setuptools import find_packages, setup

ROOMS = ("components", "data", "metrics", "pipeline", "serving", "trainer")

setup(
    name="ssd-tfx",
    version="0.1.0",
    description="SSD object detection as a TFX pipeline: VOC folders in, a blessed model out",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[f"{room}*" for room in ROOMS]),
    package_data={
        "components.detection_report": ["*.html", "*.css", "*.js"],
        "components.model_card": ["*.html", "*.md"],
        "data": ["schemas/*.pbtxt"],
        "pipeline.kubeflow": ["manifests/*"],
        "serving": [
            "page.html",
            *(f"{folder}/*" for folder in ("kserve", "kubernetes", "monitoring")),
            "tensorflow_serving/*",
        ],
    },
    py_modules=["kubeflow_runner", "local_runner"],
    install_requires=[
        "aiohttp",
        "defusedxml",
        "grpcio-health-checking",
        "imagehash",
        "jinja2",
        "markdown",
        "orjson",
        "pillow",
        "pydantic>=2",
        "rich",
    ],
)

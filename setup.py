"""The files of the package that `make`, Beam workers and the container image install.

Name, version, dependencies and the `ssd` command are in pyproject.toml. TFX and its dependencies
are pinned only in the lock files, so the package installs in any environment that has TFX.
"""

from setuptools import find_packages, setup

ROOMS = ("components", "data", "metrics", "pipeline", "serving", "trainer")

setup(
    packages=find_packages(include=[f"{room}*" for room in ROOMS]),
    package_data={
        "components.detection_report": ["*.html", "*.css", "*.js"],
        "components.model_card": ["*.html", "*.md"],
        "data": ["schemas/*.pbtxt"],
        "pipeline.kubeflow": ["manifests/*"],
        "serving": [
            f"{folder}/*" for folder in ("kserve", "kubernetes", "monitoring", "tensorflow_serving")
        ],
        "serving.model_server": ["page.html"],
    },
    py_modules=["kubeflow_runner", "local_runner", "ssd"],
)

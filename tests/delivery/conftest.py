"""The source as an image build sees it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

_ROOT = Path(__file__).resolve().parents[2]
# The image has one Python; with another, the image cannot be tested.
_PYTHON = (_ROOT / ".python-version").read_text().strip()
if ".".join(map(str, sys.version_info[:2])) != _PYTHON:
    collect_ignore = ["test_delivery_image.py", "test_delivery_gpu.py"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return _ROOT


@pytest.fixture(scope="session")
def build_context(tmp_path_factory) -> Path:
    """The files of the last commit that .dockerignore lets Docker's client send."""
    clone = tmp_path_factory.mktemp("clone") / "source"
    subprocess.run(["git", "clone", "--quiet", _ROOT, clone], check=True)
    context = tmp_path_factory.mktemp("context")
    patterns = (_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    for name in exclude_paths(clone, patterns):
        source, target = clone / name, context / name
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return context

"""The steps of the image's build, in a clean folder and without a Docker engine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

_ROOMS = ("components", "data", "metrics", "pipeline", "serving", "trainer")
# Variables for package downloads: indexes, proxies, certificate authorities, caches.
_KEPT = r"(UV|PIP|SSL|REQUESTS|CURL)_|(https?|no|all)_proxy$|(HTTPS?|NO|ALL)_PROXY$"


def _run(*command, cwd: Path, home: Path) -> str:
    """Runs a command with only the variables for package downloads; returns its output."""
    environment = {name: value for name, value in os.environ.items() if re.match(_KEPT, name)}
    environment |= {"PATH": "/usr/bin:/bin", "HOME": str(home), "UV_CACHE_DIR": _cache()}
    process = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment | {"UV": str(_uv()), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def _uv() -> Path:
    return Path(__file__).resolve().parents[2] / ".tools" / "bin" / "uv"


def _cache() -> str:
    """uv's cache, which has the packages of the tests' environment already."""
    command = [_uv(), "cache", "dir"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def installed(build_context, tmp_path_factory):
    """The output of the stages `environment` and `package`, in a temporary folder."""
    folder = tmp_path_factory.mktemp("opt")
    for step in (("environment", folder, "cpu"), ("package", folder)):
        _run("sh", "docker/install.sh", *step, cwd=build_context, home=folder)
    return folder


def test_the_image_converts_trains_evaluates_and_predicts(installed, root, tmp_path):
    python = installed / "venv" / "bin" / "python"
    script = tmp_path / "check.py"
    script.write_bytes((root / "docker" / "check.py").read_bytes())
    printed = _run(python, script, cwd=tmp_path, home=tmp_path)
    assert re.search(rf"^imported \d\d\d modules from {installed}/code:", printed, re.MULTILINE)
    for module in ("data.convert", "local_runner", "serving.predict"):
        assert re.search(rf"^python -m {module}: \d+ s$", printed, re.MULTILINE)
    assert "the pushed model answers: " in printed


def test_every_file_of_the_packages_is_installed(installed, build_context):
    code = installed / "code"
    for room in _ROOMS:
        wanted = {
            path.relative_to(build_context)
            for path in (build_context / room).rglob("*")
            if path.is_file()
        }
        found = {p.relative_to(code) for p in (code / room).rglob("*") if p.suffix != ".pyc"}
        assert wanted <= found


def test_the_environment_is_locked_and_without_test_packages(installed, root):
    def names(text):
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))

    python = installed / "venv" / "bin" / "python"
    listed = subprocess.run(
        [_uv(), "pip", "freeze", "--python", python], capture_output=True, text=True, check=True
    )
    packages = names(listed.stdout)
    assert packages["tfx"]
    assert packages.items() <= names((root / "requirements.lock").read_text("utf-8")).items()
    assert not packages.keys() & {"pytest", "ruff", "jax", "hypothesis"}


def test_an_unknown_variant_is_an_error(root, tmp_path):
    process = subprocess.run(
        ["sh", "docker/install.sh", "environment", tmp_path / "opt", "tpu"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr == "error: tpu: the image is built for cpu or gpu\n"
    assert not (tmp_path / "opt").exists()

import importlib.metadata
import re
import sys

import pytest
from docker.utils.build import exclude_paths
from packaging.requirements import Requirement

from pipeline.kubeflow.uris import MOUNTS
from tests.delivery.dockerfile import read_dockerfile


@pytest.fixture(scope="module")
def stages(root):
    return read_dockerfile(root / "Dockerfile")


@pytest.fixture(scope="module")
def locked(root):
    """Versions by package, as requirements.lock has them."""
    text = (root / "requirements.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


def test_what_is_copied_is_in_the_build_context_or_an_earlier_stage(stages, build_context):
    before = set()
    for stage in stages.values():
        for words in stage.all("COPY"):
            origins = [word.removeprefix("--from=") for word in words if word.startswith("--from=")]
            assert set(origins) <= before
            if not origins:
                for source in words[:-1]:
                    assert (build_context / source).exists(), source
        before.add(stage.name)


def test_the_project_is_copied_from_the_stage_that_installs_it(stages):
    for origin in ("environment", "package"):
        steps = [words for words in stages[origin].all("RUN") if "docker/install.sh" in words]
        (words,) = steps
        assert words[words.index("docker/install.sh") + 1] == origin
        assert "/opt/ssd" in words
    targets = [words[-1] for words in stages["runtime"].all("COPY")]
    assert targets == ["/opt/ssd/venv", "/opt/ssd/code"]


def test_bases_are_pinned(stages, locked, root):
    version = (root / ".python-version").read_text().strip()
    python = stages["runtime"].base
    pinned = rf"\S+/python:{re.escape(version)}\.\d+-slim-bookworm@sha256:[0-9a-f]{{64}}"
    assert re.fullmatch(pinned, python)
    assert stages["environment"].base == python
    # Beam refuses workers of another version than the one that submits.
    assert stages["beam-sdk"].base.endswith(f"beam_python{version}_sdk:{locked['apache-beam']}")
    for stage in stages.values():
        assert stage.base in (python, *stages) or ":" in stage.base


@pytest.mark.parametrize("target", ["pipeline", "beam-worker", "check"])
def test_nothing_runs_as_root(stages, target):
    stage, users = stages[target], []
    while stage:
        users = [words[0] for words in stage.all("USER")] + users
        stage = stages.get(stage.base)
    # Kubernetes' runAsNonRoot can judge numbers only.
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", users[-1])


def test_the_user_can_write_where_kubeflow_puts_artifacts(stages):
    instructions = stages["runtime"].instructions
    (number,) = [n for n, (_, words) in enumerate(instructions) if "install" in words]
    words = instructions[number][1]
    made = words[words.index("install") :]
    assert made[1:6] == ["--directory", "--owner", "ssd", "--group", "ssd"]
    assert {f"{folder}/" for folder in made[6:]} == set(MOUNTS.values())
    assert "USER" not in [name for name, _ in instructions[:number]]
    (check,) = stages["check"].all("RUN")
    assert all(check[check.index(folder) - 1] == "-w" for folder in made[6:])


def test_the_last_stage_is_the_image_of_the_pipeline(stages):
    name = list(stages)[-1]
    assert name == "pipeline"
    (words,) = stages[name].all("CMD")
    assert words == ["ssd", "--help"]


def test_git_environment_and_output_stay_out(root, tmp_path):
    unwanted = [
        ".git/config",
        ".venv/bin/python",
        ".tools/bin/uv",
        "output/sample/metadata.sqlite",
        "tests/conftest.py",
        "secrets.env",
        "trainer/__pycache__/loss.pyc",
    ]
    wanted = ["trainer/loss.py", "docker/install.sh", "setup.py", "requirements.lock"]
    for name in (*unwanted, *wanted):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = exclude_paths(tmp_path, [line for line in lines if line and line[0] != "#"])
    assert {name for name in sent if (tmp_path / name).is_file()} == set(wanted)


@pytest.mark.skipif(sys.version_info[:2] != (3, 10), reason="the image is for Python 3.10")
def test_the_gpu_variant_adds_what_tensorflow_asks_for(root):
    wanted = {}
    for text in importlib.metadata.requires("tensorflow"):
        requirement = Requirement(text)
        if requirement.marker and requirement.marker.evaluate({"extra": "and-cuda"}):
            if requirement.marker.evaluate({"extra": ""}):
                continue
            wanted[requirement.name] = str(requirement.specifier)
    assert wanted
    lock = (root / "docker" / "requirements-gpu.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)(==\S+) \\\n((?:    --hash=sha256:\w{64}.*\n)+)", lock, re.M)
    assert {name: version for name, version, _ in entries} == wanted

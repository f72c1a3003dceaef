"""The contents of an image, as far as they can be checked without building one."""

import os
import re
import subprocess

from docker.utils.build import exclude_paths


def test_bases_are_pinned(root):
    """Python by digest; Beam by the locked version, since its workers accept no other."""
    version = (root / ".python-version").read_text().strip()
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    lock = (root / "requirements.lock").read_text(encoding="utf-8")
    (beam,) = re.findall(r"^apache-beam(?:\[.*\])?==(\S+)", lock, re.M)
    assert re.findall(r"/beam_python([\d.]+)_sdk:(\S+)", text) == [(version, beam)]
    pythons = re.findall(r"/python:(\S+)", text)
    assert len(set(pythons)) == 1
    pinned = rf"{re.escape(version)}\.\d+-slim-bookworm@sha256:[0-9a-f]{{64}}"
    assert re.fullmatch(pinned, pythons[0])


def test_the_environment_has_the_projects_python(root, tmp_path):
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\nexit 1\n')
    uv.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    command = ["sh", "docker/install.sh", "environment", str(tmp_path), "cpu"]
    subprocess.run(command, cwd=root, env=environment | {"UV": str(uv)}, check=False)
    version = (root / ".python-version").read_text().strip()
    wanted = f"venv --quiet --python python{version} {tmp_path}/venv"
    assert (tmp_path / "arguments").read_text().strip() == wanted


def test_git_environment_and_output_are_excluded(root, tmp_path):
    unwanted = [
        ".git/config",
        ".venv/bin/python",
        ".tools/bin/uv",
        "output/sample/metadata.sqlite",
        "tests/conftest.py",
        "secrets.env",
        "trainer/__pycache__/loss.pyc",
    ]
    wanted = [".python-version", "trainer/loss.py", "docker/install.sh", "requirements.lock"]
    for name in (*unwanted, *wanted):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = exclude_paths(tmp_path, [line for line in lines if line and line[0] != "#"])
    assert {name for name in sent if (tmp_path / name).is_file()} == set(wanted)

import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import kubeflow_runner

_FILE = ".github/workflows/delivery.yaml"


@pytest.fixture(scope="module")
def workflow(root):
    return yaml.safe_load((root / _FILE).read_text(encoding="utf-8"))


def _steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_the_file_fits_githubs_schema(root):
    command = [sys.executable, "-m", "check_jsonschema"]
    command += ["--builtin-schema", "vendor.github-workflows", _FILE]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout


def test_actions_are_pinned_by_commit(root, workflow):
    text = (root / _FILE).read_text(encoding="utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert len(used) == sum("uses" in step for step in _steps(workflow))
    for line in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
    # One version of each action.
    assert len(set(used)) == len({line.split("@")[0] for line in used})


def test_jobs_have_only_the_rights_they_need(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    writing = {name for name, job in jobs.items() if "write" in job.get("permissions", {}).values()}
    assert writing == {"publish"}
    # Secrets never reach a pull request's job.
    for name, job in jobs.items():
        if "secrets." in yaml.safe_dump(job):
            assert name in ("publish", "submit")
            assert job["if"] == "github.ref_type == 'tag'"
    for step in _steps(workflow):
        assert "secrets." not in step.get("run", "")
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_a_tag_is_submitted_after_everything_else(workflow):
    jobs = workflow["jobs"]

    def before(name):
        needs = jobs[name].get("needs", [])
        needs = [needs] if isinstance(needs, str) else needs
        return set(needs).union(*(before(need) for need in needs))

    assert before("submit") == {"test", "compile", "image", "publish"}
    assert set(jobs) == before("submit") | {"submit"}


@pytest.fixture
def arguments(workflow, tmp_path):
    """A job's arguments for kubeflow_runner.py, as its shell passes them."""

    def arguments(job: str) -> list[str]:
        (step,) = [
            s for s in workflow["jobs"][job]["steps"] if "kubeflow_runner" in s.get("run", "")
        ]
        values = {"GITHUB_SHA": "0123abc", "GITHUB_REF_NAME": "v1.2.3"}
        values["IMAGE"] = "ghcr.io/Owner/SSD"
        for name, text in step["env"].items():
            default = re.search(r"\|\| '(.*)'", text)
            values[name] = default[1] if default else f"https://{name.lower()}"
        python = tmp_path / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\n')
        python.chmod(0o755)
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step["run"]],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], **values},
            check=True,
        )
        script, *words = (tmp_path / "arguments").read_text().splitlines()
        assert script == "kubeflow_runner.py"
        return words

    return arguments


def test_the_compile_command_compiles(arguments, tmp_path, monkeypatch):
    words = arguments("compile")
    monkeypatch.chdir(tmp_path)
    assert kubeflow_runner.main(words) == 0
    text = (tmp_path / "ssd.yaml").read_text(encoding="utf-8")
    assert "ghcr.io/owner/ssd:0123abc-gpu" in text


def test_a_release_is_compiled_as_documented(arguments, root):
    """Except for the image. The docs use the defaults of the repository's variables."""
    text = (root / "docs" / "kubeflow.md").read_text(encoding="utf-8")
    (step,) = re.findall(r"\*\*Compile\.\*\*\s+```\n(.*?)```", text, re.S)
    program, *documented = shlex.split(step.replace("\\\n", " "))
    assert program == "ssd"
    parse = kubeflow_runner._parser().parse_args
    released, documented = vars(parse(arguments("compile"))), vars(parse(documented))
    assert "trainer.backbone_weights=imagenet" in documented["set"]
    assert released.pop("image") != documented.pop("image")
    assert released == documented


def test_the_submit_command_parses(arguments):
    options = kubeflow_runner._parser().parse_args(arguments("submit"))
    assert options.host == "https://kfp_host"
    assert (options.package.name, options.version) == ("ssd.yaml", "v1.2.3")

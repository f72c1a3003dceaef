"""The `ssd` command: every command line of the project under one name."""

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import ssd

_ROOT = Path(__file__).resolve().parents[2]
_NAMES = [name for name, *_ in ssd.COMMANDS]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command; returns status, output and errors."""
    monkeypatch.setattr(sys, "argv", ["ssd"])
    # argparse names the program after the module that Python was started with.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)

    def run(*words):
        try:
            status = ssd.main(words)
        except SystemExit as stopped:
            status = stopped.code
        return status, *capsys.readouterr()

    return run


def test_help_names_every_command_and_version(run):
    status, out, _ = run("--help")
    assert status == 0
    assert [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines() if line][
        : len(_NAMES)
    ] == _NAMES
    assert run("--version")[1] == f"ssd, version {version('ssd-tfx')}\n"


def test_the_docs_list_every_command_and_its_module():
    text = (_ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    table = text.partition("| command |")[2].partition("\n\n")[0]
    documented = {}
    for row in table.splitlines()[2:]:
        _, left, right, _ = row.split("|")
        names = re.findall(r"`(?:ssd )?([a-z-]+)`", left)
        modules = re.findall(r"`python (?:-m )?([\w.]+?)(?:\.py)?[ `]", right)
        documented |= dict(zip(names, modules * (len(names) // len(modules)), strict=True))
    known = {name: target.partition(":")[0] for name, target, *_ in ssd.COMMANDS}
    assert {name: module.removesuffix(".__main__") for name, module in known.items()} == documented
    for name, module, before, _ in ssd.COMMANDS:
        assert before == ((name,) if module == "kubeflow_runner" else ())


@pytest.mark.parametrize("name", _NAMES)
def test_every_command_has_its_own_help(run, name):
    status, out, err = run(name, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: ssd {name} [-h]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run", "--hlep"], "ssd run: error: unknown option --hlep; did you mean --help?"),
        (["run", "--set", "steps=5"], "error: --set steps=5: did you mean trainer.steps or tune"),
        (["run", "--preset", "smaple"], "error: --preset smaple: unknown preset; did you mean s"),
        (["runs", "lst"], "did you mean list?"),
        (["compile", "--imgae", "x"], "unknown option --imgae; did you mean --image?"),
    ],
)
def test_mistakes_get_a_suggestion(run, words, message):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert message in err


def test_the_command_is_installed():
    (found,) = entry_points(group="console_scripts", name="ssd")
    assert found.load() is ssd.main


def test_help_loads_no_slow_modules():
    code = (
        "import json, ssd, sys\n"
        "try: ssd.main(['--help'])\n"
        "finally: print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    loaded = json.loads(process.stdout.splitlines()[-1])
    heavy = {"absl", "keras", "numpy", "pipeline", "pydantic", "rich", "tensorflow", "tfx", "yaml"}
    assert "click" in loaded
    assert heavy.isdisjoint(loaded)

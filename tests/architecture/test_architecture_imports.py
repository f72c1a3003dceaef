"""Which room may import which: the table of the architecture, checked against every import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
# The command lines may import every room; no room imports them.
_COMMANDS = {path.stem for path in _ROOT.glob("*.py")} - {"setup"}

# A room may import itself and the rooms in its row.
_TABLE = {
    "pipeline": {"components", "trainer", "metrics", "data"},
    "components": {"trainer", "serving", "metrics", "data"},
    "trainer": {"metrics", "data"},
    "serving": {"metrics", "data"},
    "metrics": {"data"},
    "engines": {"data"},
    "data": set(),
}


def _imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, including those in functions.

    package: the dotted name that relative imports start from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            yield node.lineno, ".".join([*(base if node.level else []), node.module or ""])
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def _forbidden(room: str, source: str, package: str) -> list[tuple[int, str]]:
    """The forbidden imports in the source of a room or command."""
    allowed = _TABLE[room] | {room} if room in _TABLE else _TABLE.keys() | _COMMANDS
    strangers = (_TABLE.keys() | _COMMANDS | {"tests", "benchmarks"}) - allowed
    return [
        (line, name)
        for line, name in _imports(source, package)
        if name.partition(".")[0] in strangers
    ]


@pytest.mark.parametrize("room", [*_TABLE, *sorted(_COMMANDS)])
def test_a_room_imports_only_what_its_row_names(room):
    files = [_ROOT / f"{room}.py"] if room in _COMMANDS else sorted((_ROOT / room).rglob("*.py"))
    assert files
    found = [
        f"{file.relative_to(_ROOT)}:{line} imports {name}"
        for file in files
        for line, name in _forbidden(
            room, file.read_text(), ".".join(file.relative_to(_ROOT).parent.parts)
        )
    ]
    assert not found


def test_every_package_has_a_row():
    assert {path.parent.name for path in _ROOT.glob("*/__init__.py")} == _TABLE.keys()


@pytest.mark.parametrize(
    "source",
    [
        "import pipeline.runs",
        "def later():\n    from pipeline import config",
        "if True:\n    from pipeline.runs.store import connect as c",
        "importlib.import_module('pipeline.local')",
        "from tests import conftest",
        "from local_runner import main",
        "from ..pipeline import config",
    ],
)
def test_every_kind_of_import_is_checked(source):
    assert _forbidden("components", source, "components")
    assert not _forbidden("components", "from . import x\nfrom .x import pipeline", "components")

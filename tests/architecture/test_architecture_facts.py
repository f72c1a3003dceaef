"""Facts with one source: the names in an exported model, and the name of each class."""

import ast
import collections
from pathlib import Path

import pytest

from data import saved_model

_ROOT = Path(__file__).resolve().parents[2]
_NAMES = {
    value for name, value in vars(saved_model).items() if name.isupper() and isinstance(value, str)
}


def _repeated(source: str) -> list[str]:
    """The exported model's names that a source repeats as literals."""
    constants = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [node.value for node in constants if node.value in _NAMES]


def test_no_module_repeats_a_name_of_the_exported_model():
    packages = [path.parent for path in _ROOT.glob("*/__init__.py")]
    files = [file for package in packages for file in package.rglob("*.py")]
    files += _ROOT.glob("*.py")
    found = {str(file.relative_to(_ROOT)): _repeated(file.read_text()) for file in files}
    repeated = {file: names for file, names in found.items() if names}
    assert repeated.keys() == {"data/saved_model.py"}, repeated


@pytest.mark.parametrize("name", ["saved_model.pb", "serving_examples", "num_detections"])
def test_a_repeated_name_is_found(name):
    assert _repeated(f"def f(x):\n    return x[{name!r}]") == [name]


def test_class_names_are_unique():
    places = collections.defaultdict(list)
    for package in _ROOT.glob("*/__init__.py"):
        for file in package.parent.rglob("*.py"):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(str(file.relative_to(_ROOT)))
    # TFX's name for a component's code.
    del places["Executor"]
    assert {name: files for name, files in places.items() if len(files) > 1} == {}

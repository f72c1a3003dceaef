"""Hashes the source that a component runs, so that a code change reruns the component.

TFX's cache key covers a component's inputs and parameters but not its code, so a hash of the code
becomes a parameter. It covers the module that runs, all modules of the project that it imports,
directly or not, and the data files in their folders.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec

PARAMETER = "code_version"
_ROOT = Path(__file__).resolve().parent.parent
_DISTRIBUTION = "ssd-tfx"
# `python -m MODULE` as a list of words.
_STARTED = re.compile(r"""["']-m["'],\s*["']([\w.]+)["']""")
# A dotted name that is the whole text, or in quotes.
_NAMED = re.compile(r"""(?:^|["'])(\w+(?:\.\w+)+)(?:$|["'])""")


def add_code_versions(components: Iterable[BaseComponent]) -> None:
    """Adds the parameter `code_version` to every component that runs code of the project."""
    for component in components:
        if modules := entry_modules(component):
            component.exec_properties[PARAMETER] = code_version(*modules)


def entry_modules(component: BaseComponent) -> list[str]:
    """The project's modules that TFX loads for a component, sorted.

    The executor's module, and those named in parameters: `run_fn`, metrics, extractors.
    """
    names = set()
    if isinstance(component.executor_spec, ExecutorClassSpec):
        names.add(component.executor_spec.executor_class.__module__)
    for value in component.exec_properties.values():
        names.update(_NAMED.findall(str(value)))
    return sorted(set(filter(None, map(_module_of, names))))


def code_version(*modules: str) -> str:
    """A hash of modules, given by dotted names, and of everything they import and read."""
    return _digest(source_files(*modules))


def source_files(*modules: str) -> list[Path]:
    """The files of modules and of all project modules they import, sorted.

    Includes imports in functions, modules started with `python -m`, and non-Python files in a
    module's folder, such as templates.
    """
    found, files, pending = set(), set(), set(modules)
    while pending:
        name = pending.pop()
        found.add(name)
        path = _path_of(name)
        if path is None:
            raise ModuleNotFoundError(f"{name}: no such module in {_ROOT}")
        files.add(path)
        files.update(_data_beside(path))
        pending |= _references(name, path, path.stat().st_mtime_ns) - found
    return sorted(files)


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(_ROOT)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _data_beside(path: Path) -> list[Path]:
    return [
        file for file in path.parent.iterdir() if file.is_file() and not file.name.endswith(_PYTHON)
    ]


_PYTHON = (".py", ".pyc")


@cache
def _references(name: str, path: Path, modified_ns: int) -> frozenset[str]:
    """The project's modules that one module needs; cached until the file changes."""
    del modified_ns  # only for the cache key
    text = path.read_text(encoding="utf-8")
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    wanted = set(_STARTED.findall(text))
    for node in _statements(ast.parse(text, path).body):
        if isinstance(node, ast.Import):
            wanted.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*above, *filter(None, [source])])
            # An imported name may be a submodule.
            wanted.update(f"{source}.{alias.name}" for alias in node.names)
    found = filter(None, map(_module_of, wanted))
    # Python loads the packages around a module first.
    return frozenset([*found, *_packages(name)])


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements and nested ones, without those for type checkers only."""
    for node in body:
        yield node
        only_checked = isinstance(node, ast.If) and ast.unparse(node.test) in _TYPE_CHECKING
        for part in ("orelse",) if only_checked else _PARTS:
            yield from _statements(getattr(node, part, ()))


_TYPE_CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
_PARTS = ("body", "orelse", "handlers", "finalbody", "cases")


def _module_of(name: str) -> str | None:
    """The longest prefix of a dotted name that is a module of the project."""
    if name.partition(".")[0] not in _rooms(_ROOT):
        return None
    while name and _path_of(name) is None:
        name = name.rpartition(".")[0]
    return name or None


def _packages(module: str) -> Iterator[str]:
    while module := module.rpartition(".")[0]:
        yield module


def _path_of(module: str) -> Path | None:
    path = _ROOT.joinpath(*module.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@cache
def _rooms(root: Path) -> frozenset[str]:
    """The project's packages: the folders of a checkout, or what was installed."""
    if (root / "setup.py").is_file():
        return frozenset(path.parent.name for path in root.glob("*/__init__.py"))
    (installed,) = metadata.distributions(name=_DISTRIBUTION, path=[str(root)])
    return frozenset((installed.read_text("top_level.txt") or "").split())

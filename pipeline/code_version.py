"""Names the source that a component runs, so that a change of it runs the component again.

TFX's cache knows a component by its inputs and parameters, not by its code. The hash of the code is
therefore one of the parameters. What belongs to it is never listed: it is the module that runs,
every module of the project that it imports, directly or not, and the files beside them.
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
# A name with dots that is all of a text, or in quotes.
_NAMED = re.compile(r"""(?:^|["'])(\w+(?:\.\w+)+)(?:$|["'])""")


def add_code_versions(components: Iterable[BaseComponent]) -> None:
    """Gives every component that runs code of the project the parameter `code_version`."""
    for component in components:
        if modules := entry_modules(component):
            component.exec_properties[PARAMETER] = code_version(*modules)


def entry_modules(component: BaseComponent) -> list[str]:
    """The project's modules that TFX loads for a component, sorted.

    The executor's, and what its parameters name: `run_fn`, metrics, extractors.
    """
    names = set()
    if isinstance(component.executor_spec, ExecutorClassSpec):
        names.add(component.executor_spec.executor_class.__module__)
    for value in component.exec_properties.values():
        names.update(_NAMED.findall(str(value)))
    return sorted(set(filter(None, map(_module_of, names))))


def code_version(*modules: str) -> str:
    """A hash of modules, by their dotted names, and of all that they import and read."""
    return _digest(source_files(*modules))


def source_files(*modules: str) -> list[Path]:
    """The files of modules and of all modules of the project that these import, sorted.

    Imports in functions count, and so do modules started by `python -m`, and files beside a module
    that are not Python: templates and the like.
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
    """The project's modules that one module needs; kept until the file changes."""
    del modified_ns  # a part of the cache's key
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
            # What is imported from a package may be a module of it.
            wanted.update(f"{source}.{alias.name}" for alias in node.names)
    found = filter(None, map(_module_of, wanted))
    # Python loads the packages that a module lies in first.
    return frozenset([*found, *_packages(name)])


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements and those in them, but for what only type checkers read."""
    for node in body:
        yield node
        only_checked = isinstance(node, ast.If) and ast.unparse(node.test) in _TYPE_CHECKING
        for part in ("orelse",) if only_checked else _PARTS:
            yield from _statements(getattr(node, part, ()))


_TYPE_CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
_PARTS = ("body", "orelse", "handlers", "finalbody", "cases")


def _module_of(name: str) -> str | None:
    """The longest beginning of a dotted name that is a module of the project."""
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

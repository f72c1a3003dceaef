"""Settings as YAML, as `--config` reads and every run writes them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from data.errors import DataError
from data.settings import Names

_LIST, _TEXT = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:str"
_EXAMPLE = "trainer: {steps: 500}"


def read_settings(path: Path) -> tuple[dict[str, Any], dict[Names, int]]:
    """The values in a YAML file as nested dicts, and the line of each name.

    Raises:
        DataError: the file cannot be read, is not YAML, or has a duplicate name.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not a YAML file ({error.reason})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{path}{where}: is not YAML ({_problem(error)})") from error
    if values is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}: write sections with settings, as in {_EXAMPLE}")
    return values, dict(_lines(node, (), path))


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).partition("\n")[0]


def _lines(node: yaml.MappingNode, names: Names, path: Path) -> Iterator[tuple[Names, int]]:
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag != _TEXT:
            raise DataError(f"{path}, line {line}: {key.value!r} is not a setting's name")
        if key.value in seen:
            raise DataError(
                f"{path}, line {line}: {'.'.join((*names, key.value))} is already set on "
                f"line {seen[key.value]}. Remove one"
            )
        seen[key.value] = line
        yield (*names, key.value), line
        if isinstance(value, yaml.MappingNode):
            yield from _lines(value, (*names, key.value), path)


class _Dumper(yaml.SafeDumper):
    """Lists on one line."""


for _kind in (list, tuple):
    _Dumper.add_representer(
        _kind, lambda dumper, items: dumper.represent_sequence(_LIST, items, flow_style=True)
    )


def as_yaml(settings: Any) -> str:
    """Settings, or plain values, as YAML that `read_settings` reads."""
    values = settings
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        values = dataclasses.asdict(settings)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def write_settings(path: Path, settings: Any) -> None:
    """Writes settings as YAML, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(as_yaml(settings), encoding="utf-8")
    partial.replace(path)

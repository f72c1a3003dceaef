"""Prints as JSON which modules of the project each component's code loads.

Standard input is JSON: the dotted names to import, by component. Each component gets a fork of a
process that has loaded TFX but nothing of the project.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import tensorflow_model_analysis  # noqa: F401
import tfx.components  # noqa: F401

_ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Prints the loaded files by component, relative to the project's folder."""
    wanted = json.load(sys.stdin)
    assert not _project_files(), _project_files()
    found = {}
    for component, names in wanted.items():
        reader, writer = os.pipe()
        if os.fork() == 0:
            for name in names:
                importlib.import_module(name)
            os.write(writer, json.dumps(_project_files()).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            found[component] = json.load(answer)
        os.wait()
    print(json.dumps(found))


def _project_files() -> list[str]:
    files = {getattr(module, "__file__", None) for module in sys.modules.values()}
    paths = {Path(file) for file in files - {None, __file__}}
    environment = Path(sys.prefix)
    return sorted(
        str(path.relative_to(_ROOT))
        for path in paths
        if path.is_relative_to(_ROOT) and not path.is_relative_to(environment)
    )


if __name__ == "__main__":
    main()

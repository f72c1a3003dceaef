"""The version folders of a model: `BASE/<number>/saved_model.pb`."""

from pathlib import Path

from data.errors import DataError
from data.saved_model import SAVED_MODEL_FILE

_HIGHEST = 2**63 - 1


def version_folders(base: Path) -> dict[int, Path]:
    """The version folders in a model's base folder by number, ascending.

    Other names are ignored (a push in progress has a temporary one). Raises DataError if the base
    folder is missing.
    """
    if not base.is_dir():
        raise DataError(f"{base}: no such folder. Give the folder that models are pushed to.")
    numbered = (f for f in base.iterdir() if f.name.isascii() and f.name.isdigit() and f.is_dir())
    return dict(sorted((int(f.name), f) for f in numbered if int(f.name) <= _HIGHEST))


def complete_versions(base: Path) -> list[int]:
    """The versions with a SavedModel, ascending."""
    folders = version_folders(base)
    return [number for number, folder in folders.items() if (folder / SAVED_MODEL_FILE).is_file()]


def newest_version(folder: Path) -> Path:
    """The folder itself if it is a SavedModel, else its highest complete version.

    Raises DataError if it holds no model.
    """
    if (folder / SAVED_MODEL_FILE).is_file():
        return folder
    complete = complete_versions(folder)
    if not complete:
        raise DataError(
            f"{folder}: no model here (no {SAVED_MODEL_FILE}, and no numbered folder with one). "
            "Give the folder a pipeline pushed to."
        )
    return version_folders(folder)[complete[-1]]

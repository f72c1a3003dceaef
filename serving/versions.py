"""Versions of a model: `BASE/<number>/saved_model.pb`, the highest number being the newest."""

from pathlib import Path

from data.errors import DataError

_SAVED_MODEL = "saved_model.pb"


def version_numbers(base: Path) -> list[int]:
    """The version folders in a model's base folder, ascending; what is not a number is no version.

    Raises DataError where the base folder is missing.
    """
    if not base.is_dir():
        raise DataError(f"{base}: no such folder. Give the folder that models are pushed to.")
    names = (folder.name for folder in base.iterdir() if folder.is_dir())
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def newest_version(folder: Path) -> Path:
    """The folder itself if it is a SavedModel, else its highest version that is one.

    Raises DataError where there is no model.
    """
    if (folder / _SAVED_MODEL).is_file():
        return folder
    for version in reversed(version_numbers(folder)):
        if (folder / str(version) / _SAVED_MODEL).is_file():
            return folder / str(version)
    raise DataError(
        f"{folder}: no model in it ({_SAVED_MODEL}, or numbered folders that hold one). "
        "Give the folder a pipeline pushed to."
    )

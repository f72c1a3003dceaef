"""Versions of a model: `BASE/<number>/saved_model.pb`, the highest number being the newest."""

from pathlib import Path

from data.errors import DataError

_SAVED_MODEL = "saved_model.pb"
_HIGHEST = 2**63 - 1


def version_folders(base: Path) -> dict[int, Path]:
    """The version folders in a model's base folder by number, ascending.

    What is not a number is no version (a push under a temporary name, for one). Raises DataError
    where the base folder is missing.
    """
    if not base.is_dir():
        raise DataError(f"{base}: no such folder. Give the folder that models are pushed to.")
    numbered = (f for f in base.iterdir() if f.name.isascii() and f.name.isdigit() and f.is_dir())
    return dict(sorted((int(f.name), f) for f in numbered if int(f.name) <= _HIGHEST))


def newest_version(folder: Path) -> Path:
    """The folder itself if it is a SavedModel, else its highest version that is one.

    Raises DataError where there is no model.
    """
    if (folder / _SAVED_MODEL).is_file():
        return folder
    for version in reversed(version_folders(folder).values()):
        if (version / _SAVED_MODEL).is_file():
            return version
    raise DataError(
        f"{folder}: no model in it ({_SAVED_MODEL}, or numbered folders that hold one). "
        "Give the folder a pipeline pushed to."
    )

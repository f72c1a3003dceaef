"""Finding the file of a picture that does not go by exactly the name its annotation gives it."""

import functools
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

JPEG_EXTENSIONS = (".jpg", ".jpeg")
EXTENSIONS = (*JPEG_EXTENSIONS, ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def find_voc_picture(folder: Path, image_id: str, filename: str) -> Path | None:
    """The picture of a VOC annotation: by its id, else by what `<filename>` says.

    Letter case does not count, nor does the extension. `<filename>` may be a path of the machine on
    which it was written.

    Returns:
      None where there is no such file.
    """
    for name in (image_id, *_names(filename)):
        for extension in ("", *EXTENSIONS):
            known = name.lower().endswith(EXTENSIONS)
            if (extension or known) and (path := find_file(folder, name + extension)):
                return path
    for name in _names(filename):
        stem = str(PurePosixPath(name).with_suffix(""))
        for extension in EXTENSIONS:
            if path := find_file(folder, stem + extension):
                return path
    return None


def find_file(folder: Path, name: str) -> Path | None:
    """The file of this name in the folder or below it; letter case does not count.

    Nor does it whether accents are characters of their own, as macOS has them, or spaces are
    written as in addresses (`%20`).
    """
    path = folder / name
    if path.is_file():
        return path
    files = _files(str(path.parent))
    actual = files.get(_same(path.name)) or files.get(_same(unquote(path.name)))
    return path.with_name(actual) if actual else None


def same_stem(folder: Path, name: str) -> str | None:
    """The name of a picture beside a missing one that differs in its extension alone."""
    path = folder / name
    for extension in EXTENSIONS:
        if found := find_file(path.parent, path.stem + extension):
            return found.name
    return None


def inside(name: str) -> PurePosixPath | None:
    """A relative path that stays inside its folder, with Windows' separators turned; or None."""
    path = PurePosixPath(name.replace("\\", "/"))
    leaves = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    return None if leaves or not path.parts else path


def _names(filename: str) -> Iterator[str]:
    """The paths that `<filename>` may mean: as it is, and its last part."""
    if path := inside(filename):
        yield str(path)
    if last := PureWindowsPath(filename).name:
        yield last


def _files(folder: str) -> dict[str, str]:
    try:
        return _listing(folder, Path(folder).stat().st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=64)
def _listing(folder: str, changed_ns: int) -> dict[str, str]:
    """The names in a folder by what they have in common with other spellings."""
    del changed_ns  # a key of the cache
    names = sorted((path.name for path in Path(folder).iterdir()), reverse=True)
    return {_same(name): name for name in names}


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()

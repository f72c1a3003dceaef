"""Finding the file of a picture that does not go by exactly the name its annotation gives it."""

import functools
import itertools
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

JPEG_EXTENSIONS = (".jpg", ".jpeg")
EXTENSIONS = (*JPEG_EXTENSIONS, ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# Found too, so that their message is of the format and not that there is no picture.
_NOT_READ = (".heic", ".heif", ".avif", ".jp2")


def find_voc_picture(folder: Path, image_id: str, filename: str) -> Path | None:
    """The picture of a VOC annotation: by its id, else by what `<filename>` says.

    Letter case does not count, nor does the extension. `<filename>` may be a path of the machine on
    which it was written.

    Returns:
      None where there is no such file.
    """
    # Nearly all are found by their id, before the other names are worked out.
    for name in itertools.chain((image_id,), _names(filename)):
        if path := find_picture(folder, name):
            return path
    for name in _names(filename):
        stem = str(PurePosixPath(name).with_suffix(""))
        for extension in EXTENSIONS:
            if path := find_file(folder, stem + extension):
                return path
    return None


def find_picture(folder: Path, name: str) -> Path | None:
    """The picture of this name, with an extension or without one, as `find_file`."""
    for extension in ("", *EXTENSIONS, *_NOT_READ):
        known = name.lower().endswith((*EXTENSIONS, *_NOT_READ))
        if (extension or known) and (path := find_file(folder, name + extension)):
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
    path = folder
    for part in PurePosixPath(name).parts:
        files = _files(str(path))
        actual = files.get(_same(part)) or files.get(_same(unquote(part)))
        if actual is None:
            return None
        path /= part if (path / part).exists() else actual
    return path if path.is_file() else None


def same_stem(folder: Path, name: str) -> str | None:
    """The name of a picture beside a missing one that differs in its extension alone."""
    path = folder / name
    for extension in EXTENSIONS:
        if found := find_file(path.parent, path.stem + extension):
            return found.name
    return None


def inside(name: str) -> PurePosixPath:
    """A relative path that stays inside its folder, with Windows' separators turned.

    Of a path of another machine, and of an address, the last part is what is left of it here.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    address = "://" in name
    if address or path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        path = PurePosixPath(_last_part(name))
    return path if path.parts else PurePosixPath("unnamed")


def _last_part(name: str) -> str:
    return PureWindowsPath(urlsplit(name).path if "://" in name else name).name


def _names(filename: str) -> Iterator[str]:
    """The paths that `<filename>` may mean: as it is, and its last part."""
    if filename:
        yield str(inside(filename))
        yield _last_part(filename)


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

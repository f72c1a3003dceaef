"""Finds a picture's file even if its name differs slightly from the one in the annotation."""

import functools
import itertools
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

JPEG_EXTENSIONS = (".jpg", ".jpeg")
EXTENSIONS = (*JPEG_EXTENSIONS, ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# Found as well, so that the error is about the format and not a missing picture.
_NOT_READ = (".heic", ".heif", ".avif", ".jp2")


def find_voc_picture(folder: Path, image_id: str, filename: str) -> Path | None:
    """The picture of a VOC annotation, by its id, else by `<filename>`; None if there is none.

    Letter case and extension are ignored. `<filename>` may be a path on another machine.
    """
    # Nearly all are found by their id, before the other names are even built.
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
    """The picture with this name, with or without an extension; see `find_file`."""
    for extension in ("", *EXTENSIONS, *_NOT_READ):
        known = name.lower().endswith((*EXTENSIONS, *_NOT_READ))
        if (extension or known) and (path := find_file(folder, name + extension)):
            return path
    return None


def find_file(folder: Path, name: str) -> Path | None:
    """The file with this relative path in the folder.

    Letter case, decomposed accents (macOS) and percent-encoding (`%20`) are ignored.
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
    """The name of a picture that differs from a missing one only in its extension."""
    path = folder / name
    for extension in EXTENSIONS:
        if found := find_file(path.parent, path.stem + extension):
            return found.name
    return None


def inside(name: str) -> PurePosixPath:
    """A relative path that stays inside its folder, with `/` for Windows' separators.

    Absolute paths, URLs and paths with `..` are reduced to their last part.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    address = "://" in name
    if address or path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        path = PurePosixPath(_last_part(name))
    return path if path.parts else PurePosixPath("unnamed")


def _last_part(name: str) -> str:
    return PureWindowsPath(urlsplit(name).path if "://" in name else name).name


def _names(filename: str) -> Iterator[str]:
    """The paths that `<filename>` may mean: all of it, or its last part."""
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
    """The names in a folder by their normalised spelling."""
    del changed_ns  # a key of the cache
    names = sorted((path.name for path in Path(folder).iterdir()), reverse=True)
    return {_same(name): name for name in names}


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()

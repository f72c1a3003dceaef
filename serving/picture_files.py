"""The pictures named on a command line, ready for a model."""

import glob
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from data.errors import DataError
from data.picture_files import EXTENSIONS
from serving.drawing import open_picture

# Formats that a model decodes.
_DECODED = ("JPEG", "PNG")


@dataclass(frozen=True)
class PictureFile:
    """A picture, and a unique name without a suffix for the files made from it."""

    path: Path
    name: str


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as the model gets it: encoded and upright, `width` and `height` in pixels."""

    file: PictureFile
    encoded: bytes
    width: int
    height: int


def find_pictures(arguments: Sequence[str], lists: Sequence[Path] = ()) -> list[PictureFile]:
    """Finds pictures by files, folders (recursively), patterns, and lists with one path per line.

    Raises:
        DataError: an argument matches nothing.
    """
    found: dict[Path, str] = {}
    for argument in [*arguments, *_listed(lists)]:
        for path, name in _pictures_of(argument):
            found.setdefault(path, name)
    return [PictureFile(path, name) for path, name in zip(found, _unique(found), strict=True)]


def read_picture(file: PictureFile) -> EncodedPicture:
    """Reads a picture; re-encodes it if it is rotated or in a format that models do not decode.

    Raises:
        DataError: it is missing, broken or too large.
    """
    return prepare_picture(file, _read(file.path))


def prepare_picture(file: PictureFile, encoded: bytes) -> EncodedPicture:
    """Like `read_picture`, for content that has already been read."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            # PngImageFile.getexif decodes the whole picture.
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) != 1
            known = image.format in _DECODED
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        turned, known = True, False  # open_picture says what is wrong
    if known and not turned:
        return EncodedPicture(file, encoded, width, height)
    upright = open_picture(file.path, encoded)
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=1)
    return EncodedPicture(file, buffer.getvalue(), *upright.size)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path") from error


def _listed(lists: Iterable[Path]) -> Iterator[str]:
    for path in lists:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}). Give a text file with one path per line"
            ) from error
        yield from (line.strip() for line in text.splitlines() if line.strip())


def _pictures_of(argument: str) -> Iterator[tuple[Path, str]]:
    """Paths, and their names relative to the argument."""
    path = Path(argument)
    if path.is_dir():
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in EXTENSIONS
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not inside:
            raise DataError(f"{argument}: no pictures below this folder ({', '.join(EXTENSIONS)})")
        yield from ((file, str(file.relative_to(path))) for file in inside)
    elif path.exists() or not glob.has_magic(argument):
        yield path, path.name
    else:
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 (absolute ones too)
        if not matches:
            raise DataError(f"{argument}: no file matches this pattern")
        for match in matches:
            yield from _pictures_of(glob.escape(match) if not Path(match).exists() else match)


def _unique(found: dict[Path, str]) -> list[str]:
    """A name for each picture, as short as it can be and still unique."""
    names = [str(Path(name).with_suffix("")) for name in found.values()]
    # a.jpg and a.png, then pictures of the same name in different folders.
    for longer in (list(found.values()), [str(path.resolve())[1:] for path in found]):
        count = Counter(names)
        names = [
            name if count[name] == 1 else other for name, other in zip(names, longer, strict=True)
        ]
    return names

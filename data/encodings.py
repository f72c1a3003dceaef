"""Text file encodings."""

import codecs
from pathlib import Path


def encoding_of(path: Path) -> str:
    """UTF-16 if the file begins with its byte order mark, as PowerShell writes it, else UTF-8.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"

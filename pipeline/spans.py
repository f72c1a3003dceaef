"""Data that comes in spans: folders such as `span-3/version-1`, of which a run takes the newest.

TFX's ImportExampleGen chooses the span, and writes it down with what it read; the rule is asked
here before, for a look at the records.
"""

from dataclasses import dataclass
from pathlib import Path

from tfx.components.example_gen.input_processor import FileBasedInputProcessor
from tfx.proto import example_gen_pb2

from data.errors import DataError

# In every folder of records, as files or as a folder.
_A_SPLIT = "train*"


@dataclass(frozen=True)
class Spans:
    """Folders of records by span: `pattern` is relative to `base`, `newest` is one of them."""

    base: Path
    pattern: str
    newest: Path


def find_spans(path: Path) -> Spans | None:
    """The spans that a path with TFX's placeholders names; None for a path without any.

    path: as in `records/span-{SPAN}/version-{VERSION}`, or with dates, `records/{YYYY}-{MM}-{DD}`.

    Raises:
      DataError: a mistake in the pattern, or there is no such folder with records.
    """
    placed = [index for index, part in enumerate(path.parts) if "{" in part]
    if not placed or path.is_dir():
        return None
    base = Path(*path.parts[: placed[0]])
    pattern = "/".join(path.parts[placed[0] :])
    split = example_gen_pb2.Input.Split(name="train", pattern=f"{pattern}/{_A_SPLIT}")
    try:
        processor = FileBasedInputProcessor(str(base.absolute()), [split])
        span, version = processor.resolve_span_and_version()
        newest = base / processor.get_pattern_for_span_version(pattern, span, version)
    except ValueError as error:
        raise DataError(
            f"{path}: no span can be taken from it ({error}). Write whole numbers for {{SPAN}} and "
            "{VERSION}, as in records/span-1/version-1, with the records of all splits in there"
        ) from error
    if not newest.is_dir():
        raise DataError(
            f"{path}: no such folder, nor does it name spans: that is done by {{SPAN}} and "
            "{VERSION}, or by {YYYY}, {MM} and {DD}"
        )
    return Spans(base, pattern, newest)

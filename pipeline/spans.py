"""Data that comes in spans: folders such as `span-3/version-1`, of which a run takes the newest.

TFX's ImportExampleGen chooses the span and records it. The same rule is applied here first, to look
at the records.
"""

from dataclasses import dataclass
from pathlib import Path

from tfx.components.example_gen.input_processor import FileBasedInputProcessor
from tfx.proto import example_gen_pb2

from data.errors import DataError

# Every folder of records has it, as files or as a folder.
_A_SPLIT = "train*"


@dataclass(frozen=True)
class Spans:
    """Folders of records by span; `pattern` is relative to `base`, `newest` is the latest one."""

    base: Path
    pattern: str
    newest: Path


def find_spans(path: Path) -> Spans | None:
    """The spans of a path with TFX's placeholders; None for a path without any.

    path: `records/span-{SPAN}/version-{VERSION}`, for example, or `records/{YYYY}-{MM}-{DD}`.

    Raises:
      DataError: the pattern is wrong, or no folder with records matches it.
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
            f"{path}: found no span ({error}). Number the folders, as in records/span-1/version-1, "
            "and put the records of all splits in each"
        ) from error
    if not newest.is_dir():
        raise DataError(
            f"{path}: no such folder, and no pattern for spans, which has {{SPAN}} and {{VERSION}} "
            "or {YYYY}, {MM} and {DD}"
        )
    return Spans(base, pattern, newest)

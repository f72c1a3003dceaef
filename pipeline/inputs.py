"""From what the user names with --data to records, schema and classes, before a component runs."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from data.beam_runner import IN_PROCESS
from data.convert import convert
from data.errors import DataError
from data.fields import COMMON, HIKAPOK, Fields
from data.paths import check_no_wildcard
from data.record_folder import open_record_folder
from data.sample import SPLIT_LISTS, draw_sample
from data.schema import SAMPLE_SCHEMA, VOC_HIKAPOK_SCHEMA, VOC_SCHEMA, class_names, read_schema
from pipeline.code_version import code_version
from pipeline.config import INFER_SCHEMA, Config
from pipeline.pipeline import Inputs
from pipeline.spans import find_spans

_log = logging.getLogger("ssd")

# Years of a VOCdevkit, or of the folder above it.
_YEARS = ("*", "*/*")


def prepare(
    config: Config, data: Path | None, output: Path, beam_args: Sequence[str] = IN_PROCESS
) -> Inputs:
    """Finds, and where needed draws or converts, the records of a run and reads its schema.

    Args:
      data: a VOC root, a folder of TFRecords or a pattern of `find_spans`; None draws the sample
        data set.
      output: folder of the run; drawn and converted data is kept under it for the next run.
      beam_args: for a conversion.

    Raises:
      DataError: the data is missing or unusable.
    """
    if data is None:
        data = _sample(config, output)
    if spans := find_spans(data):
        folder = open_record_folder(spans.newest)
        records = spans.base
        patterns = {split: f"{spans.pattern}/{rest}" for split, rest in folder.patterns.items()}
    elif data.is_dir():
        folder = open_record_folder(_records(config, data, output, beam_args))
        records, patterns = folder.path, folder.patterns
    else:
        raise DataError(f"{data}: no such folder. Give a VOC root or a folder of TFRecords")
    check_no_wildcard(records)
    path = schema_path(config, folder.fields)
    classes = () if path is None else class_names(read_schema(path))
    # Numbers rise from train to test in VOC and in the sample, so the last is not trained on.
    picture = max(_voc_files(data, "JPEGImages"), default=None)
    return Inputs(records, patterns, folder.fields, path, classes, picture)


def keep_schema(schema: Path, output: Path) -> Path:
    """A copy of a schema under a name that its content decides.

    TFX takes what it has imported from a path before for what is there now.
    """
    content = schema.read_bytes()
    kept = output / "schemas" / hashlib.sha256(content).hexdigest()[:16] / schema.name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f".{kept.name}.partial")
        partial.write_bytes(content)
        partial.rename(kept)
    return kept


def _sample(config: Config, output: Path) -> Path:
    """The drawn sample data set, drawn on the first run."""
    if config.data.schema != "sample":
        raise DataError(
            f"--data is needed with data.schema={config.data.schema}: a VOC root or a folder of "
            "TFRecords. Only the schema of the preset `sample` has pictures drawn"
        )
    root = output / "sample" / code_version("data.sample")
    if not root.exists():
        _log.info("drawing the sample data set in %s", root)
        draw_sample(root)
    return root


def _records(config: Config, data: Path, output: Path, beam_args: Sequence[str]) -> Path:
    """`data` itself if it holds TFRecords, else the folder its VOC pictures are converted to."""
    if not _is_voc_root(data):
        return data
    if config.data.schema == INFER_SCHEMA:
        raise DataError(
            f"{data}: to infer a schema, convert first and give the TFRecords: "
            "python -m data.convert --voc VOCROOT --output DIR --classes NAME [NAME ...]"
        )
    classes = class_names(read_schema(schema_path(config, COMMON)))
    records = output / "records" / _fingerprint(data, classes)
    if not records.exists():
        lists = SPLIT_LISTS if data.parent == output / "sample" else {}
        report = convert(
            data,
            records,
            classes=classes,
            beam_options=beam_args,
            console=Console(),
            **lists,
        )
        for note in report.notes:
            _log.info("  %s", note)
    return records


def _is_voc_root(path: Path) -> bool:
    # The folder of a year is none either, but the conversion has the better answer to it.
    return any(any(path.glob(f"{above}/ImageSets/Main")) for above in (".", *_YEARS))


def _voc_files(root: Path, folder: str) -> Iterator[Path]:
    """Files of a folder of every year."""
    # By name instead of through the whole tree, which may have links and hold much else.
    for above in _YEARS:
        yield from root.glob(f"{above}/{folder}/*")


def _fingerprint(voc_root: Path, classes: tuple[str, ...]) -> str:
    """Changes with the converter, the classes, and the name, size or time of any VOC file."""
    digest = hashlib.sha256(f"{code_version('data.convert')} {classes}".encode())
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        for path in sorted(_voc_files(voc_root, folder)):
            stat = path.stat()
            line = f"{path.relative_to(voc_root)} {stat.st_size} {stat.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()[:16]


def schema_path(config: Config, fields: Fields) -> Path | None:
    """The schema's file; None when it is to be inferred."""
    schema = config.data.schema
    if schema == INFER_SCHEMA:
        return None
    if schema == "voc":
        return VOC_HIKAPOK_SCHEMA if fields == HIKAPOK else VOC_SCHEMA
    if schema == "sample":
        return SAMPLE_SCHEMA
    return Path(schema).resolve()

"""Turns --data into records, schema and classes before any component runs."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from data.beam_runner import IN_PROCESS
from data.convert import SCHEMA_FILE
from data.errors import DataError
from data.fields import COMMON, HIKAPOK, Fields
from data.options import ConversionOptions, as_settings
from data.paths import check_no_wildcard
from data.problems import wrapped
from data.record_folder import open_record_folder
from data.sample import SPLIT_LISTS, draw_sample
from data.schema import SAMPLE_SCHEMA, VOC_HIKAPOK_SCHEMA, VOC_SCHEMA, class_names, read_schema
from data.sources import Source, find_source
from pipeline.code_version import code_version
from pipeline.config import FIND_SCHEMA, INFER_SCHEMA, PRESETS, Config
from pipeline.pipeline import Inputs
from pipeline.spans import find_spans

_log = logging.getLogger("ssd")


def prepare(
    config: Config, data: Path | None, output: Path, beam_args: Sequence[str] = IN_PROCESS
) -> Inputs:
    """Finds the records of a run, drawing or converting them if needed, and reads the schema.

    Args:
      data: a folder of annotated pictures (`data.sources`), a folder of TFRecords or a pattern for
        `find_spans`; None draws the sample data set.
      output: the output folder, where drawn and converted data is kept for the next run.
      beam_args: for a conversion.

    Raises:
      DataError: the data is missing or unusable.
    """
    drawn = data is None
    if data is None:
        data = _sample(config, output)
    picture = None
    if spans := find_spans(data):
        folder = open_record_folder(spans.newest)
        records = spans.base
        patterns = {split: f"{spans.pattern}/{rest}" for split, rest in folder.patterns.items()}
    elif data.is_dir():
        source = find_source(data)
        converted = _converted(config, source, drawn, output, beam_args) if source else data
        folder = open_record_folder(converted)
        records, patterns = folder.path, folder.patterns
        picture = source.last_picture() if source else None
    else:
        raise DataError(f"{data}: no such folder. Give a folder of annotated pictures or TFRecords")
    check_no_wildcard(records)
    path = schema_path(config, folder.fields, None if drawn else folder.path)
    classes = () if path is None else class_names(read_schema(path))
    return Inputs(records, patterns, folder.fields, path, classes, picture)


def keep_schema(schema: Path, output: Path) -> Path:
    """A copy of a schema under a path derived from its content.

    TFX reuses what it imported from a path before, even if the file has changed since.
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
    """The sample data set, drawn on the first run."""
    if config.data.schema != "sample":
        raise DataError(
            "--data is needed: a folder of annotated pictures or TFRecords. Only the preset "
            "`sample`, with its own schema, draws pictures"
        )
    # The last folder becomes the data set's name.
    root = output / "sample" / code_version("data.sample") / "sample"
    if not root.exists():
        _log.info("drawing the sample data set in %s", root)
        draw_sample(root)
    return root


def _converted(
    config: Config, source: Source, drawn: bool, output: Path, beam_args: Sequence[str]
) -> Path:
    """The folder with the converted pictures; converts them unless an earlier run did."""
    if config.data.schema == INFER_SCHEMA:
        raise DataError(
            f"{source.root}: a schema is inferred only from TFRecords; a conversion writes one "
            "itself. Leave out data.schema, and name the classes with --set "
            "data.classes=NAME,NAME, or take those found with --set data.classes=auto"
        )
    options = _options(config, drawn)
    records = output / "records" / _fingerprint(source, options)
    if not records.exists():
        try:
            report = source.convert(records, options, beam_options=beam_args, console=Console())
        except DataError as error:
            raise DataError(as_settings(str(error))) from error
        for note in report.notes:
            for line in wrapped(as_settings(note), "  ", "    "):
                _log.info("%s", line)
        for line in report.lines():
            _log.info("  %s", line)
        if report.left_out:
            _log.info("  see %s", records / "rejected.jsonl")
    return records


def _options(config: Config, drawn: bool) -> ConversionOptions:
    """The configured options of a conversion; classes may come from a schema."""
    names = [field.name for field in dataclasses.fields(ConversionOptions)]
    options = ConversionOptions(**{name: getattr(config.data, name) for name in names})
    if drawn:
        lists: dict[str, Any] = SPLIT_LISTS
        options = dataclasses.replace(options, **lists)
    named = _names_schema(config)
    if named and options.classes:
        raise DataError("data.schema and data.classes both name the classes. Set one of them")
    path = None if config.data.schema == FIND_SCHEMA else schema_path(config, COMMON)
    if options.classes or path is None:
        return options
    return dataclasses.replace(options, classes=class_names(read_schema(path)))


def _fingerprint(source: Source, options: ConversionOptions) -> str:
    """Changes with the converter, its options, and the name, size or time of any file it reads."""
    digest = hashlib.sha256(f"{code_version('data.convert')} {options}".encode())
    for path in sorted(source.files()):
        stat = path.stat()
        line = f"{path.relative_to(source.root)} {stat.st_size} {stat.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:16]


def _names_schema(config: Config) -> bool:
    """Whether the configuration names a schema other than its preset's."""
    preset = PRESETS.get(config.preset)
    return config.data.schema not in (FIND_SCHEMA, preset and preset.data.schema)


def schema_path(config: Config, fields: Fields, records: Path | None = None) -> Path | None:
    """The schema's file; None if it is to be inferred.

    records: folder of the records; a conversion's schema there is used unless another is named.
    """
    schema = config.data.schema
    if schema == INFER_SCHEMA:
        return None
    if records and not _names_schema(config) and (records / SCHEMA_FILE).is_file():
        return records / SCHEMA_FILE
    if schema in (FIND_SCHEMA, "voc"):
        return VOC_HIKAPOK_SCHEMA if fields == HIKAPOK else VOC_SCHEMA
    if schema == "sample":
        return SAMPLE_SCHEMA
    return Path(schema).resolve()

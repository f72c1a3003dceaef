"""Output folders that were moved or copied, whose metadata still hold the old paths."""

import contextlib
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ml_metadata.metadata_store import MetadataStore

PIPELINE = "pipeline"
METADATA = "metadata.sqlite"
_FILES = "runs"
# TFX puts artifacts in OUTPUT/pipeline/COMPONENT/KEY/EXECUTION.
_ARTIFACT = re.compile(rf"(/.*)/{PIPELINE}/[^/]+/[^/]+/\d+")
# Columns of ML Metadata that hold paths.
_PATHS = (
    ("Artifact", "uri"),
    ("ArtifactProperty", "string_value"),
    ("ContextProperty", "string_value"),
    ("ExecutionProperty", "string_value"),
)


def run_file(output: Path, run: str) -> Path:
    """The file with a run's complete configuration."""
    return output / _FILES / f"{run}.yaml"


def home_of(file: Path) -> Path | None:
    """The output folder of a run's file; None for other files."""
    folder = file.resolve().parent
    return folder.parent if folder.name == _FILES and (folder.parent / METADATA).exists() else None


@dataclass(frozen=True)
class Move:
    """A move from the folder named in the metadata to the one that contains them."""

    old: str
    new: str

    @cached_property
    def _path(self) -> re.Pattern:
        return re.compile(rf"(?<![\w./-]){re.escape(self.old)}(?=/|$|[\"',])")

    def __call__(self, text: str) -> str:
        """Replaces the old folder with the new one in every path in a text."""
        return self._path.sub(lambda _: self.new, text)


def output_of(path: Path) -> Path | None:
    """The output folder that a path is or lies in; None if there is none."""
    path = path.resolve()
    return next((place for place in (path, *path.parents) if (place / METADATA).is_file()), None)


def find_move(store: MetadataStore, output: Path) -> Move | None:
    """How the output folder of a metadata store has moved; None if it has not."""
    return move_of(((a.id, a.uri) for a in store.get_artifacts()), output)


def move_of(artifacts: Iterable[tuple[int, str]], output: Path) -> Move | None:
    """`find_move` for the ids and URIs of artifacts."""
    places = (
        (number, found[1]) for number, uri in artifacts if (found := _ARTIFACT.fullmatch(uri))
    )
    # Every run updates all paths, so the newest is enough. A model to start from may lie in another
    # output folder, but a run imports it before it makes anything.
    _, old = max(places, default=(0, None))
    here = str(output.resolve())
    return None if old in (None, here) else Move(old, here)


def relocate(metadata: Path) -> Move | None:
    """Updates the paths in the metadata of a moved output folder, all or none.

    In SQL, since an update through ML Metadata would change the end time of every component.

    Args:
      metadata: the SQLite file, in its output folder.
    """
    with contextlib.closing(sqlite3.connect(metadata)) as database, database:
        uris = database.execute("SELECT id, uri FROM Artifact WHERE uri IS NOT NULL")
        move = move_of(uris, metadata.parent)
        if move:
            database.create_function("moved", 1, move, deterministic=True)
            for table, column in _PATHS:
                database.execute(
                    f"UPDATE {table} SET {column} = moved({column}) WHERE {column} IS NOT NULL"
                )
    return move

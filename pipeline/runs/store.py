"""Runs, their components and artifacts, read from ML Metadata without changing it."""

import contextlib
import datetime
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ml_metadata import errors, metadata_store
from ml_metadata.proto import metadata_store_pb2

from data.errors import DataError
from pipeline.runs.home import METADATA, find_move, run_file
from pipeline.runs.liveness import is_running

# Properties of a run's context: the user's name for it, the absolute path of its data, and whether
# it finished.
NAME = "name"
DATA = "data"
FINISHED = "finished"
_STATES = metadata_store_pb2.Execution.State
# Ids per request, since databases limit the length of a statement.
_AT_ONCE = 500


@dataclass(frozen=True)
class Artifact:
    """Something that a component read or wrote; `properties` are TFX's and the component's own."""

    id: int
    type: str
    uri: str
    properties: dict


@dataclass(frozen=True)
class Step:
    """One component of a run; `seconds` is None while it runs.

    `is_lookup` is true for a resolver, which makes nothing and is never cached.
    """

    id: int
    component: str
    state: str
    started: datetime.datetime
    seconds: float | None
    parameters: dict
    inputs: dict[str, list[Artifact]]
    outputs: dict[str, list[Artifact]]
    is_lookup: bool = False

    def output(self, key: str) -> Artifact | None:
        """The only artifact of an output; None if there is not exactly one."""
        artifacts = self.outputs.get(key, [])
        return artifacts[0] if len(artifacts) == 1 else None


@dataclass(frozen=True)
class Run:
    """One run of a pipeline; runs are numbered from 1 in the order in which they started.

    `id` is TFX's, `name` the user's, `data` the value of --data. `running` says whether a process
    is executing it, `finished` whether it got to the end; both are None if unknown. `config` is the
    file with its complete configuration, if it is on this machine.
    """

    number: int
    id: str
    name: str
    pipeline: str
    steps: tuple[Step, ...]
    data: str | None = None
    running: bool | None = None
    finished: bool | None = None
    config: Path | None = None

    @property
    def started(self) -> datetime.datetime:
        """When its first step started."""
        return min(step.started for step in self.steps)

    def step(self, component: str) -> Step | None:
        """The component's step; None if the run did not reach it."""
        return next((step for step in self.steps if step.component == component), None)


def connect(metadata: str) -> metadata_store.MetadataStore:
    """The metadata in an SQLite file or at `mysql://user:password@host:port/database`.

    Raises:
        DataError: there is no metadata, or the database does not answer.
    """
    if "://" in metadata:
        return _open(mysql_config(metadata), _without_password(metadata))
    if not Path(metadata).is_file():
        raise DataError(
            f"{metadata}: no metadata there. Give the folder of a run with --output, or run "
            "`ssd run` first"
        )
    check_sound(Path(metadata))
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = metadata
    config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    return _open(config, metadata)


def check_sound(metadata: Path) -> None:
    """Raises DataError for a damaged file; ML Metadata detects only some damage, and later."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"{metadata.resolve().as_uri()}?mode=ro", uri=True)
        ) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):  # another run is writing, so the file is not damaged
            return
        found = str(error)
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise DataError(
            f"{metadata}: the record of all runs is damaged ({found}). Restore a backup, or move "
            f"it away: mv {metadata} {metadata}.damaged. Pushed models stay; the next run starts "
            "without history and runs every component again"
        )


def mysql_config(url: str) -> metadata_store_pb2.ConnectionConfig:
    """ML Metadata's configuration for `mysql://user:password@host:port/database`.

    Raises:
        DataError: `url` is another kind of address.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 3306
    except ValueError:
        port = None
    if parts.scheme != "mysql" or not (parts.hostname and port and parts.path.strip("/")):
        raise DataError(
            f"--metadata {_without_password(url)}: write mysql://user:password@host:port/database "
            "or the path of an SQLite file"
        )
    config = metadata_store_pb2.ConnectionConfig()
    config.mysql.host = parts.hostname
    config.mysql.port = port
    config.mysql.database = parts.path.strip("/")
    config.mysql.user = unquote(parts.username or "")
    config.mysql.password = unquote(parts.password or "")
    config.mysql.skip_db_creation = True
    return config


def read_runs(store: metadata_store.MetadataStore, output: Path | None = None) -> list[Run]:
    """All runs, oldest first, except those that did not reach any component.

    Args:
      output: the folder with the metadata, which may have been moved or copied; None for a
        database.
    """
    move = (find_move(store, output) if output else None) or str
    components = dict(_components(store))
    contexts = {context.name: context for context in store.get_contexts_by_type("pipeline_run")}
    executions = {name: _executions(store, context) for name, context in contexts.items()}
    found = [execution for several in executions.values() for execution in several]
    steps = _steps(store, found, components, move)
    begun = sorted(
        (
            (name, tuple(steps[e.id] for e in several if e.id in steps))
            for name, several in executions.items()
            if any(e.id in steps for e in several)
        ),
        key=lambda run: (min(step.started for step in run[1]), run[0]),
    )
    return [
        _run(number, contexts[name], components[steps_of_run[0].id][0], steps_of_run, output, move)
        for number, (name, steps_of_run) in enumerate(begun, start=1)
    ]


def _run(
    number: int,
    context: metadata_store_pb2.Context,
    pipeline: str,
    steps: tuple[Step, ...],
    output: Path | None,
    move: Callable[[str], str],
) -> Run:
    known = {name: _value(value) for name, value in context.custom_properties.items()}
    return Run(
        number=number,
        id=context.name,
        name=str(known.get(NAME) or pipeline.removeprefix("ssd-")),
        pipeline=pipeline,
        steps=steps,
        data=move(str(known[DATA])) if DATA in known else None,
        running=is_running(output, context.name) if output else None,
        finished=bool(known[FINISHED]) if FINISHED in known else None,
        config=file if output and (file := run_file(output, context.name)).is_file() else None,
    )


def runs_of(output: Path) -> list[Run]:
    """`read_runs` for an output folder.

    Raises:
        DataError: the metadata are missing or damaged.
    """
    return read_runs(connect(str(output / METADATA)), output)


def find_run(runs: list[Run], wanted: str) -> Run:
    """A run by its number, its name, a prefix of its id, or `latest`.

    Raises:
        DataError: no run matches, or more than one.
    """
    if not runs:
        raise DataError("there are no runs yet. Run `ssd run` first")
    if wanted == "latest":
        return runs[-1]
    found = [run for run in runs if wanted == str(run.number)] or [
        run for run in runs if wanted == run.name or run.id.startswith(wanted)
    ]
    if len(found) != 1:
        known = ", ".join(f"{run.number} ({run.name}, {run.id})" for run in found or runs[-10:])
        raise DataError(
            f"{wanted}: {'more than one' if found else 'no such'} run; choose from {known}, or "
            "`latest`"
        )
    return found[0]


def _open(config: metadata_store_pb2.ConnectionConfig, where: str) -> metadata_store.MetadataStore:
    try:
        return metadata_store.MetadataStore(config)
    except (errors.StatusError, RuntimeError) as error:
        raise DataError(
            f"{where}: the metadata cannot be opened ({error}). Check that it is ML Metadata of "
            "this version and that the database answers"
        ) from error


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":...@") if parts.password else url


def _components(store: metadata_store.MetadataStore) -> Iterator[tuple[int, tuple[str, str]]]:
    """Pipeline and component of each execution, by its id."""
    for context in store.get_contexts_by_type("node"):
        pipeline, _, component = context.name.rpartition(".")
        for execution in _executions(store, context):
            yield execution.id, (pipeline, component)


def _executions(store: metadata_store.MetadataStore, context: metadata_store_pb2.Context) -> list:
    return sorted(store.get_executions_by_context(context.id), key=lambda e: e.id)


def _steps(
    store: metadata_store.MetadataStore,
    executions: list,
    components: dict,
    move: Callable[[str], str],
) -> dict[int, Step]:
    ids = [execution.id for execution in executions]
    types = {kind.id: kind.name for kind in store.get_execution_types()}
    events = [event for some in _chunks(ids) for event in store.get_events_by_execution_ids(some)]
    artifacts = _artifacts(store, sorted({event.artifact_id for event in events}), move)
    inputs: dict[int, dict] = {identity: {} for identity in ids}
    outputs: dict[int, dict] = {identity: {} for identity in ids}
    for event in events:
        is_output = event.type in (
            metadata_store_pb2.Event.OUTPUT,
            metadata_store_pb2.Event.DECLARED_OUTPUT,
        )
        keys = [step.key for step in event.path.steps if step.WhichOneof("value") == "key"]
        side = (outputs if is_output else inputs)[event.execution_id]
        side.setdefault(keys[0] if keys else "", []).append(artifacts[event.artifact_id])
    return {
        execution.id: Step(
            id=execution.id,
            component=components[execution.id][1],
            state=_STATES.Name(execution.last_known_state).lower(),
            started=_time(execution.create_time_since_epoch),
            seconds=_seconds(execution),
            parameters={
                name: _value(value, move)
                for name, value in execution.custom_properties.items()
                if not name.startswith("__")
            },
            inputs=inputs[execution.id],
            outputs=outputs[execution.id],
            is_lookup=types[execution.type_id].endswith(".Resolver"),
        )
        for execution in executions
        if execution.id in components
    }


def _artifacts(
    store: metadata_store.MetadataStore, ids: list[int], move: Callable[[str], str]
) -> dict[int, Artifact]:
    types = {kind.id: kind.name for kind in store.get_artifact_types()}
    return {
        artifact.id: Artifact(
            artifact.id,
            types[artifact.type_id],
            move(artifact.uri),
            {
                name: _value(value, move)
                for name, value in (
                    *artifact.properties.items(),
                    *artifact.custom_properties.items(),
                )
            },
        )
        for some in _chunks(ids)
        for artifact in store.get_artifacts_by_id(some)
    }


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]


def _value(
    value: metadata_store_pb2.Value, move: Callable[[str], str] = str
) -> int | float | str | None:
    """A property's value; structures as text, since nothing here reads them."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    content = getattr(value, kind)
    return content if isinstance(content, int | float | bool) else move(str(content))


def _time(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000).astimezone()


def _seconds(execution: metadata_store_pb2.Execution) -> float | None:
    if execution.last_known_state == metadata_store_pb2.Execution.RUNNING:
        return None
    return (execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000

"""Keeps the versions of models loaded that their folders and configurations ask for.

A version is loaded before an older one is unloaded; a version that fails to load leaves the older
one in service, and is tried again after the retry interval, or at once when its files change.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from serving.model_config import ModelConfig
from serving.servable import Servable
from serving.status import StatusError, invalid
from serving.versions import version_folders

_LOG = logging.getLogger(__name__)

# The states of TensorFlow Serving's ModelVersionStatus.
START = "START"
LOADING = "LOADING"
AVAILABLE = "AVAILABLE"
UNLOADING = "UNLOADING"
END = "END"


@dataclass
class _Version:
    folder: Path
    state: str = START
    error: StatusError | None = None
    servable: Servable | None = None
    users: int = 0
    attempts: int = 0
    next_attempt: float = 0.0
    files: tuple = ()


@dataclass(frozen=True)
class VersionStatus:
    """State of one version as the status API reports it, with the error it failed with, if any."""

    version: int
    state: str
    error: StatusError | None


class ModelManager:
    """Loaded models. `poll` is called by one thread, all else by any."""

    def __init__(
        self,
        models: Iterable[ModelConfig],
        load: Callable[[Path], Servable] = Servable,
        max_load_retries: int = 5,
        retry_interval_s: float = 60.0,
    ):
        self._models = {model.name: model for model in models}
        self._load = load
        self._max_load_retries = max_load_retries
        self._retry_interval_s = retry_interval_s
        self._versions: dict[str, dict[int, _Version]] = {name: {} for name in self._models}
        self._lock = threading.Lock()
        # What a label names now: it moves only when the version it is to name is in service.
        self._labels: dict[tuple[str, str], int] = {}
        self._unreadable: dict[str, str] = {}

    @property
    def model_names(self) -> list[str]:
        """The models served, in the order of their configuration."""
        return list(self._models)

    def configure(self, models: Iterable[ModelConfig]) -> None:
        """Serves these models from the next poll on."""
        with self._lock:
            self._models = {model.name: model for model in models}
            for name in self._models:
                self._versions.setdefault(name, {})

    def poll(self) -> None:
        """Compares folders with what is loaded, and loads and unloads accordingly."""
        for name, versions in list(self._versions.items()):
            model = self._models.get(name)
            folders = self._folders(model) if model else {}
            if folders is None:
                continue
            wanted = model.policy(folders) if model else []
            for number in reversed(wanted):
                with self._lock:
                    version = versions.setdefault(number, _Version(folders[number]))
                self._keep_loaded(version)
            if model:
                self._move_labels(model)
            replaced = not wanted or any(versions[n].state == AVAILABLE for n in wanted)
            for number in sorted(versions.keys() - set(wanted)):
                self._retire(versions[number], replaced)

    def ready(self) -> bool:
        """Whether each model has a version in service; StatusError where one cannot get there."""
        ready = True
        for name, versions in self._versions.items():
            states = [version.state for version in versions.values()]
            if AVAILABLE not in states:
                ready = False
            for number, version in versions.items():
                if version.error and version.state == END and AVAILABLE not in states:
                    raise StatusError(
                        version.error.code,
                        f"{name} version {number} ({version.folder}) does not load: "
                        f"{version.error.message}",
                    )
        return ready

    @contextlib.contextmanager
    def use(
        self, name: str, number: int | None = None, label: str | None = None
    ) -> Iterator[tuple[int, Servable]]:
        """Lends a loaded version, the highest if none is named; it stays loaded meanwhile."""
        version = None
        with self._lock:
            if label is not None:
                labels = self._models[name].labels if name in self._models else {}
                if label not in labels:
                    raise invalid(f"Unrecognized servable version label: {label}")
                number = self._labels.get((name, label), labels[label])
            loaded = {n: v for n, v in self._versions.get(name, {}).items() if v.state == AVAILABLE}
            chosen = max(loaded, default=None) if number is None else number
            if chosen not in loaded:
                request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
                raise StatusError("NOT_FOUND", f"Servable not found for request: {request}")
            version = loaded[chosen]
            version.users += 1
        try:
            yield chosen, version.servable
        finally:
            with self._lock:
                version.users -= 1

    def statuses(self, name: str, number: int | None = None) -> list[VersionStatus]:
        """States of all versions ever seen of a model, newest first, or of the one named."""
        with self._lock:
            versions = self._versions.get(name, {})
            if number is not None and number not in versions:
                raise StatusError("NOT_FOUND", f"Could not find version {number} of model {name}")
            if not versions:
                raise StatusError("NOT_FOUND", f"Could not find any versions of model {name}")
            numbers = sorted(versions, reverse=True) if number is None else [number]
            return [VersionStatus(n, versions[n].state, versions[n].error) for n in numbers]

    def _move_labels(self, model: ModelConfig) -> None:
        with self._lock:
            versions = self._versions[model.name]
            for label, number in model.labels.items():
                if number in versions and versions[number].state == AVAILABLE:
                    self._labels[model.name, label] = number

    def _folders(self, model: ModelConfig) -> dict[int, Path] | None:
        """The version folders; None where they cannot be read, and all stays as it is."""
        try:
            folders = version_folders(model.base_path)
        except (DataError, OSError) as error:
            if self._unreadable.get(model.name) != str(error):
                _LOG.error("%s: versions kept as they are: %s", model.name, error)
            self._unreadable[model.name] = str(error)
            return None
        self._unreadable.pop(model.name, None)
        return folders

    def _keep_loaded(self, version: _Version) -> None:
        files = _fingerprint(version.folder)
        with self._lock:
            if version.state == UNLOADING:
                version.state = AVAILABLE
            if version.state == AVAILABLE:
                return
            if files != version.files or version.error is None:
                version.files, version.attempts, version.next_attempt = files, 0, 0.0
            elif version.state == END:
                return
            if time.monotonic() < version.next_attempt:
                return
            version.state = LOADING
        try:
            servable = self._load(version.folder)
        except StatusError as error:
            with self._lock:
                # Without the traceback, whose frames would keep what was loaded in memory.
                version.error = StatusError(error.code, error.message)
                version.attempts += 1
                version.next_attempt = time.monotonic() + self._retry_interval_s
                version.state = LOADING if version.attempts <= self._max_load_retries else END
        else:
            with self._lock:
                version.servable, version.error, version.state = servable, None, AVAILABLE

    def _retire(self, version: _Version, replaced: bool) -> None:
        """Unloads a version that is not wanted, once others serve and nobody uses it."""
        with self._lock:
            if version.state == AVAILABLE and replaced:
                version.state = UNLOADING
            elif version.state in (START, LOADING):
                version.state = END
            if version.state != UNLOADING or version.users:
                return
            servable, version.servable = version.servable, None
        servable.close()
        with self._lock:
            version.state = END


def _fingerprint(folder: Path) -> tuple:
    """Changes when the model's file appears or is replaced."""
    try:
        status = (folder / "saved_model.pb").stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino

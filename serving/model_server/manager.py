"""Loads and unloads versions of models as their folders and the configuration change.

A new version is loaded before the old one is unloaded. If it fails to load, the old one stays in
service; it is retried after the retry interval, or at once when its files change.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.errors import DataError
from serving.model_server.model_config import ModelConfig
from serving.model_server.servable import Servable
from serving.model_server.status import StatusError, invalid
from serving.version_folders import version_folders

_LOG = logging.getLogger(__name__)

# The states of TensorFlow Serving's ModelVersionStatus.
START = "START"
LOADING = "LOADING"
AVAILABLE = "AVAILABLE"
UNLOADING = "UNLOADING"
END = "END"


@dataclass
class Version:
    """One version of a model: its state, and the error of its last failed load, if any."""

    version: int
    folder: Path
    state: str = START
    error: StatusError | None = None
    servable: Servable | None = None
    users: int = 0
    attempts: int = 0
    next_attempt: float = 0.0
    files: tuple = ()


@dataclass
class _Model:
    config: ModelConfig | None = None  # None: no longer served
    versions: dict[int, Version] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    problem: str = ""  # with its base folder


class ModelManager:
    """Loaded models. All methods are thread-safe."""

    def __init__(
        self,
        models: Iterable[ModelConfig],
        load: Callable[[Path], Servable] = Servable,
        max_load_retries: int = 5,
        retry_interval_s: float = 60.0,
    ) -> None:
        self._load = load
        self._max_load_retries = max_load_retries
        self._retry_interval_s = retry_interval_s
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()
        self._polling = threading.Lock()
        self.configure(models)

    def configure(self, models: Iterable[ModelConfig]) -> None:
        """Serves these models from the next poll on; labels change at once.

        Raises FAILED_PRECONDITION and changes nothing if a label would move to a version that is
        not in service. A new label may name any version. Both are TensorFlow Serving's rules
        (server_core.cc of 2.16.1, `UpdateModelVersionLabelMap`, with
        --allow_version_labels_for_unavailable_models).
        """
        configs = {config.name: config for config in models}
        with self._lock:
            for name, config in configs.items():
                self._check_labels(self._models.get(name, _Model()), config)
            self.model_names = list(configs)
            for name in {**self._models, **configs}:
                model = self._models.setdefault(name, _Model())
                model.config = configs.get(name)
                model.labels = dict(model.config.labels) if model.config else {}

    def poll(self) -> None:
        """Loads and unloads versions as the folders now demand."""
        with self._polling:
            self._poll()

    def _poll(self) -> None:
        for model in list(self._models.values()):
            config, versions = model.config, model.versions
            folders = self._folders(config, model) if config else {}
            if folders is None:
                continue
            wanted = config.policy(folders) if config else []
            for number in reversed(wanted):
                with self._lock:
                    version = versions.setdefault(number, Version(number, folders[number]))
                self._keep_loaded(version)
            serving = {number for number in wanted if versions[number].state == AVAILABLE}
            for number in sorted(versions.keys() - set(wanted)):
                self._retire(versions[number], replaced=bool(serving) or not wanted)

    def _check_labels(self, model: _Model, config: ModelConfig) -> None:
        for label, number in config.labels.items():
            version = model.versions.get(number)
            moved = model.labels.get(label, number) != number
            if moved and (version is None or version.state != AVAILABLE):
                raise StatusError(
                    "FAILED_PRECONDITION",
                    f"label {label} of model {config.name} cannot move to version {number}, which "
                    "is not in service",
                )

    def ready(self) -> bool:
        """Whether every model has a version in service; StatusError if one never will."""
        unserved = self._unserved()
        for config, model in unserved:
            for version in model.versions.values():
                if version.error and version.state == END:
                    raise StatusError(
                        version.error.code,
                        f"{config.name} version {version.version} ({version.folder}) does not "
                        f"load: {version.error.message}",
                    )
        return not unserved

    def waiting(self) -> str:
        """The models without a version in service, and their folders."""
        return ", ".join(
            f"{config.name} in {config.base_path}{' (no such folder)' if model.problem else ''}"
            for config, model in self._unserved()
        )

    def _unserved(self) -> list[tuple[ModelConfig, _Model]]:
        return [
            (model.config, model)
            for model in self._models.values()
            if model.config and not any(v.state == AVAILABLE for v in model.versions.values())
        ]

    @contextlib.contextmanager
    def use(
        self, name: str, number: int | None = None, label: str | None = None
    ) -> Iterator[tuple[int, Servable]]:
        """Lends a loaded version, by default the highest; it stays loaded meanwhile."""
        with self._lock:
            model = self._models.get(name) or _Model()
            if label is not None:
                if label not in model.labels:
                    raise invalid(f"model {name} has no label {label}")
                number = model.labels[label]
            loaded = {
                n: (v, v.servable)
                for n, v in model.versions.items()
                if v.state == AVAILABLE and v.servable is not None
            }
            chosen = max(loaded, default=None) if number is None else number
            if chosen not in loaded:
                message = f"model {name} has no version in service"
                if number is not None:
                    message = f"version {number} of model {name} is not in service"
                raise StatusError("NOT_FOUND", message)
            version, servable = loaded[chosen]
            version.users += 1
        try:
            yield chosen, servable
        finally:
            with self._lock:
                version.users -= 1

    def statuses(self, name: str, number: int | None = None) -> list[Version]:
        """Copies of all versions ever seen of a model, newest first, or of the one named."""
        with self._lock:
            versions = self._models[name].versions if name in self._models else {}
            if number is not None and number not in versions:
                raise StatusError("NOT_FOUND", f"model {name} has no version {number}")
            if not versions:
                raise StatusError("NOT_FOUND", f"no model {name}, or no version of it")
            numbers = sorted(versions, reverse=True) if number is None else [number]
            return [replace(versions[number]) for number in numbers]

    def _folders(self, config: ModelConfig, model: _Model) -> dict[int, Path] | None:
        """The version folders; None if they cannot be read."""
        try:
            folders, problem = version_folders(config.base_path), ""
        except (DataError, OSError) as error:
            folders, problem = None, str(error)
            if problem != model.problem:
                _LOG.error("%s: cannot list the versions: %s", config.name, problem)
        model.problem = problem
        return folders

    def _keep_loaded(self, version: Version) -> None:
        with self._lock:
            if version.state == UNLOADING:
                version.state = AVAILABLE
            if version.state == AVAILABLE:
                return
        files = _fingerprint(version.folder)
        with self._lock:
            if files != version.files or version.error is None:
                version.files, version.attempts = files, 0
            elif version.state == END or time.monotonic() < version.next_attempt:
                return
            version.state = LOADING
        try:
            servable = self._load(version.folder)
        except StatusError as error:
            with self._lock:
                # Without the traceback, whose frames keep the loaded model in memory.
                version.error = StatusError(error.code, error.message)
                version.attempts += 1
                version.next_attempt = time.monotonic() + self._retry_interval_s
                version.state = LOADING if version.attempts <= self._max_load_retries else END
        else:
            with self._lock:
                version.servable, version.error, version.state = servable, None, AVAILABLE

    def _retire(self, version: Version, replaced: bool) -> None:
        """Unloads an unwanted version once others serve and nobody uses it."""
        with self._lock:
            if version.state == AVAILABLE and replaced:
                version.state = UNLOADING
            elif version.state in (START, LOADING):
                version.state = END
            if version.state != UNLOADING or version.users:
                return
            servable, version.servable = version.servable, None
        if servable is not None:
            servable.close()
        with self._lock:
            version.state = END


def _fingerprint(folder: Path) -> tuple:
    """Changes when a file of the model appears, grows or is replaced."""
    files = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError):
            status = path.stat()
            files.append((str(path), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(files)

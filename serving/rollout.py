"""Moves the labels of a `models.config` in steps that TensorFlow Serving accepts.

TensorFlow Serving updates labels before it loads versions (server_core.cc of 2.16.1: `ReloadConfig`
calls `UpdateModelVersionLabelMap` first). It rejects a configuration that moves a label to a
version that is not AVAILABLE, at every poll, so that version would never be loaded. A label
therefore moves in two edits of the file: the first adds the version to those served and leaves
labels alone; once the servers report it AVAILABLE, the second moves the label.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from data.errors import DataError
from serving.model_server.model_config import read_config, write_config
from serving.version_folders import complete_versions
from serving.versions import STABLE

# Whether all servers have a version in service; may wait for that. Raises DataError if one never
# will. The second argument says that the file has just changed, so servers may not know yet.
InService = Callable[[int, bool], bool]


def promote(
    base: Path, config: Path, model: str, version: int, label: str, in_service: InService
) -> bool:
    """Points a label at a version; the label's previous version stays served if it is lower.

    If the version is not in service yet, only the first edit is made. If `in_service` raises, the
    file is restored.

    Returns:
      Whether the label names the version now.

    Raises:
      DataError: the version is incomplete, the model is not in the config, or there is no stable
        label yet and the version would be the only one served.
    """
    complete = complete_versions(base)
    if version not in complete:
        raise DataError(
            f"{base}: version {version} is missing or has no saved_model.pb. "
            f"Complete versions: {', '.join(map(str, complete)) or 'none'}."
        )
    server = read_config(config)
    entry = _entry(server, config, model)
    if label != STABLE and STABLE not in entry.version_labels:
        raise DataError(
            f"{config}: model {model} has no label {STABLE}, so only {label} would be served. "
            f"First promote the version that clients get today to {STABLE}."
        )
    before = read_config(config)
    served = _served(entry, complete)
    if version not in served:
        _serve(entry, [*served, version])
        write_config(config, server)
    left = entry.version_labels.get(label)
    try:
        if left != version and not in_service(version, version not in served):
            return False
    except BaseException:
        write_config(config, before)
        raise
    if left == version:
        left = max((number for number in served if number < version), default=None)
    entry.version_labels[label] = version
    kept = [left] if left in complete and left < version else []
    _serve(entry, [*entry.version_labels.values(), *kept])
    write_config(config, server)
    return True


def rollback(base: Path, config: Path, model: str, label: str, in_service: InService) -> int:
    """Points a label at the version served before, else at the next lower one; returns it.

    Without labels, it rolls back from the newest version served. For `in_service` see `promote`.
    """
    entry = _entry(read_config(config), config, model)
    complete = complete_versions(base)
    served = _served(entry, complete)
    left = entry.version_labels.get(label)
    if left is None and label == STABLE and not entry.version_labels:
        left = max(served, default=None)
    if left is None:
        raise DataError(
            f"{config}: model {model} has no label {label}. Promote a version to it first."
        )
    lower = [number for number in complete if number < left]
    if not lower:
        raise DataError(f"{base}: no version below {left} to roll back to.")
    version = max(set(served).intersection(lower), default=lower[-1])
    promote(base, config, model, version, label, in_service)
    return version


def serve_latest(config: Path, model: str) -> None:
    """Drops the labels and serves the newest version, as before the first promotion."""
    server = read_config(config)
    entry = _entry(server, config, model)
    entry.version_labels.clear()
    entry.model_version_policy.latest.num_versions = 1
    write_config(config, server)


def labels_and_served(base: Path, config: Path, model: str) -> tuple[dict[str, int], list[int]]:
    """The model's labels in a `models.config`, and the versions that it tells servers to serve."""
    entry = _entry(read_config(config), config, model)
    return dict(entry.version_labels), _served(entry, complete_versions(base))


def _served(entry: model_server_config_pb2.ModelConfig, complete: list[int]) -> list[int]:
    policy = entry.model_version_policy
    if policy.HasField("all"):
        return complete
    if policy.HasField("specific"):
        return list(policy.specific.versions)
    return complete[-(policy.latest.num_versions or 1) :]


def _serve(entry: model_server_config_pb2.ModelConfig, versions: Iterable[int]) -> None:
    entry.model_version_policy.specific.versions[:] = sorted(set(versions))


def _entry(
    server: model_server_config_pb2.ModelServerConfig, config: Path, model: str
) -> model_server_config_pb2.ModelConfig:
    for entry in server.model_config_list.config:
        if entry.name == model:
            return entry
    names = ", ".join(entry.name for entry in server.model_config_list.config) or "none"
    raise DataError(f"{config}: no model {model} (found: {names}). Name one with --model.")

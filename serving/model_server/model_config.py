"""Which models and versions to serve: one model from the command line, or a `models.config`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from google.protobuf import descriptor_pb2, message_factory, text_format
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from data.errors import DataError
from data.saved_model import SAVED_MODEL_FILE

_DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"
_LOG_TYPE = "tfrecord"
# Missing from the package with TensorFlow Serving's protos.
_MONITORING_PROTO = """
  name: "serving/monitoring_config.proto" package: "serving" syntax: "proto3"
  message_type {
    name: "MonitoringConfig"
    nested_type {
      name: "Prometheus"
      field { name: "enable" number: 1 type: TYPE_BOOL label: LABEL_OPTIONAL }
      field { name: "path" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
    }
    field {
      name: "prometheus_config" number: 1 type: TYPE_MESSAGE label: LABEL_OPTIONAL
      type_name: ".serving.MonitoringConfig.Prometheus"
    }
  }
"""
Policy = Callable[[Iterable[int]], list[int]]
_Message = TypeVar("_Message", bound=Message)


@dataclass(frozen=True)
class LogConfig:
    """A log of requests: the prefix of its files, and the share of requests logged."""

    prefix: Path
    sampling_rate: float


@dataclass(frozen=True)
class ModelConfig:
    """A model: name, folder of its versions, which of them to serve, labels, request log."""

    name: str
    base_path: Path
    policy: Policy
    labels: Mapping[str, int] = field(default_factory=dict)
    log: LogConfig | None = None


def latest(count: int = 1) -> Policy:
    """Serves the versions with the highest numbers."""
    return lambda versions: sorted(versions)[-count:]


def read_config(path: Path) -> model_server_config_pb2.ModelServerConfig:
    """Reads a `models.config`; raises DataError if it is not one."""
    return _read(path, model_server_config_pb2.ModelServerConfig())


def write_config(path: Path, config: model_server_config_pb2.ModelServerConfig) -> None:
    """Writes a `models.config` atomically.

    Of the old file's comments, those before the first entry are kept.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    comments = takewhile(lambda line: line.startswith("#") or not line.strip(), lines)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(comments) + text_format.MessageToString(config))
    partial.replace(path)


def read_models(path: Path) -> list[ModelConfig]:
    """The models in a `models.config`; raises DataError if one cannot be served."""
    return models_of(read_config(path), str(path))


def models_of(config: model_server_config_pb2.ModelServerConfig, source: str) -> list[ModelConfig]:
    """The models of a configuration from `source`; raises DataError if one cannot be served."""
    models = []
    for model in config.model_config_list.config:
        if not model.name or not model.base_path:
            raise DataError(f"{source}: a config without name or base_path. It needs both.")
        if model.model_platform not in ("", "tensorflow"):
            raise DataError(
                f"{source}: {model.name}: model_platform is {model.model_platform!r}, but only "
                '"tensorflow" can be served.'
            )
        base_path, policy = Path(model.base_path), _policy(model.model_version_policy)
        check_base_path(base_path, f"{source}: {model.name}")
        log = _log_config(model, source)
        models.append(ModelConfig(model.name, base_path, policy, dict(model.version_labels), log))
    names = [model.name for model in models]
    if not models or len(set(names)) < len(names):
        found = ", ".join(names) or "no model"
        raise DataError(f"{source}: {found} in model_config_list. Name each model once.")
    return models


def check_base_path(base_path: Path, source: str) -> None:
    """Raises DataError if a base path is a version instead of the folder of all versions."""
    if (base_path / SAVED_MODEL_FILE).is_file():
        raise DataError(
            f"{source}: {base_path} is a single version (it has a {SAVED_MODEL_FILE}). "
            f"Give the folder of all versions: {base_path.parent}"
        )


def read_metrics_path(path: Path) -> str | None:
    """The URL path of the metrics from a `monitoring.config`; None if they are not enabled."""
    file = text_format.Parse(_MONITORING_PROTO, descriptor_pb2.FileDescriptorProto())
    message = message_factory.GetMessages([file])["serving.MonitoringConfig"]()
    config = _read(path, message).prometheus_config
    return (config.path or _DEFAULT_METRICS_PATH) if config.enable else None


def _policy(policy: Message) -> Policy:
    if policy.HasField("all"):
        return sorted
    if policy.HasField("specific"):
        wanted = set(policy.specific.versions)
        return lambda versions: sorted(wanted.intersection(versions))
    return latest(policy.latest.num_versions or 1)


def _log_config(model: model_server_config_pb2.ModelConfig, source: str) -> LogConfig | None:
    if not model.HasField("logging_config"):
        return None
    collector = model.logging_config.log_collector_config
    rate = model.logging_config.sampling_config.sampling_rate
    if collector.type != _LOG_TYPE or not collector.filename_prefix or not 0 < rate <= 1:
        raise DataError(
            f"{source}: {model.name}: logging_config has type {collector.type!r}, filename_prefix "
            f"{collector.filename_prefix!r} and sampling_rate {rate:g}. It needs type "
            f"{_LOG_TYPE!r}, a prefix, and a rate above 0 and at most 1."
        )
    return LogConfig(Path(collector.filename_prefix), rate)


def _read(path: Path, message: _Message) -> _Message:
    try:
        return text_format.Parse(path.read_text(), message)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        kind = type(message).DESCRIPTOR.name
        raise DataError(f"{path}: not a {kind} in text format ({error}). Fix it.") from error

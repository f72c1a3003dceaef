"""Logs a sample of requests and answers as TFRecords of TensorFlow Serving's PredictionLog.

The `logging_config` of a model in `models.config` turns it on. A file ending in `.tfrecord` is
complete; the one being written ends in `.partial` until it is full or ten minutes old. Files left
by a killed process are finished by the next one.
"""

import contextlib
import fcntl
import logging
import os
import random
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from data.saved_model import DEFAULT_SIGNATURE
from serving.model_server.model_config import LogConfig, ModelConfig
from serving.model_server.servable import Arrays

_LOG = logging.getLogger(__name__)
_PARTIAL = ".partial"
# Limits of a file, and of files kept: at most 1 GiB for each model.
_FILE_BYTES = 64 * 2**20
_FILE_SECONDS = 600.0
_FILES = 16


class RequestLogs:
    """The logs of all models that have one. `add` is thread-safe."""

    def __init__(self, models: Iterable[ModelConfig]) -> None:
        self._lock = threading.Lock()
        self._logs: dict[str, _RequestLog] = {}
        self.configure(models)

    def configure(self, models: Iterable[ModelConfig]) -> None:
        """Logs for these models from now on."""
        wanted = {model.name: model.log for model in models if model.log}
        with self._lock:
            for name, log in list(self._logs.items()):
                if wanted.get(name) != log.config:
                    self._logs.pop(name).finish()
            for name in wanted.keys() - self._logs.keys():
                self._logs[name] = _RequestLog(wanted[name])

    def add(
        self, model: str, version: int, signature: str, inputs: Arrays, outputs: Arrays
    ) -> None:
        """Logs an answered request if it falls into the sample. Never fails."""
        log = self._logs.get(model)
        if log is None or random.random() >= log.config.sampling_rate:
            return
        record = prediction_log_pb2.PredictionLog()
        record.log_metadata.sampling_config.sampling_rate = log.config.sampling_rate
        record.log_metadata.timestamp_secs = int(time.time())
        request, response = record.predict_log.request, record.predict_log.response
        for spec in (record.log_metadata.model_spec, request.model_spec, response.model_spec):
            spec.name = model
            spec.version.value = version
            spec.signature_name = signature or DEFAULT_SIGNATURE
        for protos, arrays in ((request.inputs, inputs), (response.outputs, outputs)):
            for name, array in arrays.items():
                protos[name].CopyFrom(tf.make_tensor_proto(array))
        with self._lock:
            if self._logs.get(model) is log:
                log.write(record.SerializeToString())

    def finish_due(self) -> None:
        """Finishes files that are old enough; to be called regularly."""
        with self._lock:
            for log in self._logs.values():
                log.finish(only_due=True)

    def close(self) -> None:
        """Finishes all files; nothing is logged afterwards."""
        self.configure([])


class _RequestLog:
    """The files of one model; not for several threads at once."""

    def __init__(self, config: LogConfig) -> None:
        self.config = config
        self._writer: tf.io.TFRecordWriter | None = None
        self._lock: BinaryIO | None = None
        self._failing = False
        # Does not match the files of a model whose prefix merely begins with this one.
        name = rf"{re.escape(config.prefix.name)}-\d{{19}}-\d+\.tfrecord"
        self._whole, self._unfinished = (re.compile(name + end) for end in ("", _PARTIAL))

    def write(self, record: bytes) -> None:
        """Adds a record. A failure is logged once and leaves no half-written file."""
        try:
            writer = self._open() if self._writer is None else self._writer
            writer.write(record)
            # So that a killed process loses nothing.
            writer.flush()
            self._bytes += len(record)
            if self._bytes > _FILE_BYTES:
                self._finish()
            self._failing = False
        except (OSError, tf.errors.OpError) as error:
            self._fail(error)

    def finish(self, only_due: bool = False) -> None:
        """Gives the file its final name and removes the oldest; `only_due`: if it is old enough."""
        if self._writer is None or (only_due and time.monotonic() < self._end):
            return
        try:
            self._finish()
        except (OSError, tf.errors.OpError) as error:
            self._fail(error)

    def _open(self) -> tf.io.TFRecordWriter:
        self.config.prefix.parent.mkdir(parents=True, exist_ok=True)
        self._adopt()
        self._path = Path(f"{self.config.prefix}-{time.time_ns()}-{os.getpid()}.tfrecord")
        self._partial = Path(f"{self._path}{_PARTIAL}")
        # Locked while it is written: an unlocked one was left by a process that died.
        self._lock = self._partial.open("ab")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._writer = tf.io.TFRecordWriter(str(self._partial))
        self._bytes, self._end = 0, time.monotonic() + _FILE_SECONDS
        return self._writer

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._partial.rename(self._path)
        self._writer = None
        if self._lock is not None:
            self._lock.close()
        self._lock = None
        for file in self._files(self._whole)[:-_FILES]:
            file.unlink(missing_ok=True)

    def _adopt(self) -> None:
        """Finishes the files of killed processes."""
        for file in self._files(self._unfinished):
            with contextlib.suppress(OSError), file.open("rb") as left:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if file.stat().st_size:
                    file.rename(file.with_suffix(""))
                else:
                    file.unlink()

    def _files(self, names: re.Pattern) -> list[Path]:
        """The model's files of a kind, oldest first."""
        return sorted(f for f in self.config.prefix.parent.iterdir() if names.fullmatch(f.name))

    def _fail(self, error: Exception) -> None:
        # Requests are answered all the same. The next one tries again, silently.
        if not self._failing:
            _LOG.error("%s: requests are not logged: %s", self.config.prefix, error)
        self._failing = True
        with contextlib.suppress(OSError, tf.errors.OpError):
            if self._writer is not None:
                self._writer.close()
        self._writer = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            with contextlib.suppress(OSError):
                self._partial.unlink()

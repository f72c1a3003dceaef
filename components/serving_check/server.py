"""Runs the embedded server in a separate process, with one model, during a check."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfx.utils import io_utils

import serving
from data.errors import DataError

MODEL_NAME = "candidate"
_PROJECT = Path(serving.__file__).resolve().parents[1]
_START_S = 300.0
_STOP_S = 30.0
_LOG_LINES = 5


@dataclass(frozen=True)
class CheckedServer:
    """A server process whose model may still be loading."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self) -> str:
        """The base of its REST API."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Returns once the model is loaded; DataError if the server exits or takes too long."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            self.check_alive()
            address = ("127.0.0.1", self.port)
            with contextlib.suppress(OSError), socket.create_connection(address, 1.0):
                return
            time.sleep(0.05)
        raise DataError(f"the server was not ready after {_START_S:g} s{self._last_words()}")

    def check_alive(self) -> None:
        """Raises DataError with the server's last output if it has exited."""
        status = self.process.poll()
        if status is not None:
            raise DataError(f"the server ended with status {status}{self._last_words()}")

    def peak_memory_mb(self) -> float:
        """The process's peak memory so far, in MB of 10^6 bytes."""
        self.check_alive()
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
        return int(kilobytes) * 1024 / 1e6

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return ", and said: " + " / ".join(lines[-_LOG_LINES:]) if lines else ""


@contextlib.contextmanager
def started_server(model: str) -> Iterator[CheckedServer]:
    """Starts a server for the SavedModel in a folder, and stops it on exit.

    It runs on the CPU, because this process may hold the accelerator's memory.
    """
    with tempfile.TemporaryDirectory(prefix="serving_check_") as folder:
        base, log = Path(folder, "versions"), Path(folder, "log.txt")
        io_utils.copy_dir(model, str(base / "1"))
        port = _free_port()
        command = [sys.executable, "-m", "serving.server", "--enable_page=false"]
        command += [f"--model_name={MODEL_NAME}", f"--model_base_path={base}"]
        command += [f"--rest_api_port={port}", "--max_num_load_retries=0"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=_PROJECT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield CheckedServer(process, port, log)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

"""Python commands that start with TFX already imported, which saves each of them seconds.

Each is a fork of one process that has imported TFX but nothing of this project.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
_SCRIPT = str(Path(__file__).with_name("forked_command.py"))
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"])


class ForkedPython:
    """Runs `python WORDS...`; has the parts of `subprocess.Popen` that tests need.

    Args:
        words: `-m MODULE` or the path of a script, and its arguments.
        stdout, stderr: files to append to.
        folder: the working directory.
        environment: variables; by default those of this process.
    """

    def __init__(
        self,
        *words: object,
        stdout: Path,
        stderr: Path | None = None,
        folder: Path = ROOT,
        environment: Mapping[str, str] = os.environ,
    ):
        self.stdout, self.stderr = stdout, stderr or stdout
        command = {
            "words": [str(word) for word in words],
            "stdout": self.stdout,
            "stderr": self.stderr,
            "folder": folder,
            "environment": dict(environment),
        }
        arguments = (_SCRIPT, {"command": command})
        self._process = _FORKS.Process(target=runpy.run_path, args=arguments)
        self._process.start()

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; returns the exit status."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"still running after {timeout} s")
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()


def run(*words: object) -> subprocess.CompletedProcess:
    """Runs `python WORDS...` in the project's folder, like `subprocess.run`."""
    with TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        status = ForkedPython(*words, stdout=stdout, stderr=stderr).wait()
        return subprocess.CompletedProcess(words, status, stdout.read_text(), stderr.read_text())

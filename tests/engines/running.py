"""A running engine, and commands that run Beam on it."""

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines import local
from tests.forked_python import ForkedPython


@dataclass(frozen=True)
class Engine:
    """A running engine with a pool of workers."""

    name: str
    address: local.Address
    logs: Path

    def options(self, **changed: object) -> list[str]:
        """Arguments with which a command runs Beam here."""
        options = {
            "job_endpoint": f"localhost:{self.address.job}",
            "environment_config": f"localhost:{self.address.pool}",
            **changed,
        }
        return ["--beam", self.name, "--", *(f"--{k}={v}" for k, v in options.items())]

    def start(self, *command: object) -> ForkedPython:
        """Starts `python COMMAND` in the project's folder."""
        folder = Path(tempfile.mkdtemp(dir=self.logs))
        return ForkedPython(*command, stdout=folder / "stdout", stderr=folder / "stderr")

    def kill_workers(self) -> int:
        """Kills the pool's Python workers; returns their number."""
        workers = [
            pid
            for pid in Path("/proc").glob("[0-9]*")
            if f"--port={self.address.pool}" in _command(_parent(_parent(pid)))
        ]
        for pid in workers:
            subprocess.run(["kill", "-9", pid.name], check=False)
        return len(workers)


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


def wait_for(condition: Callable[[], object], seconds: float = 300) -> object:
    """Polls a condition until it is true; returns its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"still waiting after {seconds} s")


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _parent(process: Path) -> Path:
    try:
        return Path("/proc", (process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return process

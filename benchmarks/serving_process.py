"""Runs the embedded server in a process that a benchmark starts, watches and stops."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_START_S = 600.0
_STOP_S = 60.0


class ServerProcess:
    """A server process, its CPU time and memory."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path):
        self.process, self.port, self.log = process, port, log

    def cpu_seconds(self) -> float:
        """CPU time of all threads so far."""
        values = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Current resident memory, in 10^6 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 / 1e6

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_S)


def start_server(log: Path, *flags: str) -> ServerProcess:
    """Starts a server with these flags on a free port; returns when its models are loaded."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "serving.server", f"--rest_api_port={port}", *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + _START_S
    while b"\nserving " not in b"\n" + log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"error: no server: {log.read_text()[-500:]}")
        time.sleep(0.05)
    return ServerProcess(process, port, log)

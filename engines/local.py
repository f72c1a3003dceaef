"""Flink or Spark on this machine: `python -m engines.local flink` (or `make flink`).

Downloads the jars with Maven on first use, then starts Beam's job server with the engine embedded
and a pool of Python workers, all on loopback. Ctrl-C stops everything.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.beam_runner import DEFAULT_JOB_PORT, DEFAULT_POOL_PORT, python_path
from data.command_line import Arguments, Parser, as_command
from data.errors import DataError
from data.flink_rest import PORTS

_HERE = Path(__file__).resolve().parent
_TOOLS = _HERE.parent / ".tools" / "engines"
ENGINES = ("flink", "spark")
_COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_SECONDS_TO_START = 120

# Packages that Beam and the engines access by reflection, which Java 17 no longer allows.
_OPENED = (
    *("lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "text", "time", "util"),
    *("util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"),
)
_OPENED_INTERNALS = (
    *("sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar"),
    "jdk.internal.ref",
)

_FLINK_CONF = """\
# Flink's default is 1: one worker at a time.
parallelism.default: {slots}
# The defaults (512 buffers for each shuffle, 64 MB) are too small for the pipeline.
taskmanager.network.sort-shuffle.min-buffers: 64
taskmanager.memory.network.min: 512mb
taskmanager.memory.network.max: 512mb
# Flink's REST API, through which an interrupted command cancels its job. Each job's cluster takes
# a port.
rest.bind-address: localhost
rest.bind-port: {first}-{last}
# By default a job fails when it loses its first worker. All tasks of a lost worker fail; this
# strategy counts the failures within one backoff as one. The backoff has to exceed
# --environment_cache_millis (10 s), during which Beam keeps using the lost worker.
restart-strategy.type: exponential-delay
restart-strategy.exponential-delay.initial-backoff: 12 s
restart-strategy.exponential-delay.max-backoff: 15 s
restart-strategy.exponential-delay.backoff-multiplier: 1.1
restart-strategy.exponential-delay.jitter-factor: 0.0
restart-strategy.exponential-delay.attempts-before-reset-backoff: 3
"""


@dataclass(frozen=True)
class Address:
    """Ports on loopback of the job server and of the pool of workers."""

    job: int = DEFAULT_JOB_PORT
    pool: int = DEFAULT_POOL_PORT


def jars(engine: str) -> Path:
    """The folder that `fetch` puts an engine's jars in."""
    return _TOOLS / "jars" / engine


def missing() -> str:
    """What the engines need and do not find, in a few words; "" if nothing is missing."""
    if not shutil.which("java"):
        return "no Java"
    without = [engine for engine in ENGINES if not jars(engine).is_dir()]
    return f"no jars for {' and '.join(without)}" if without else ""


def fetch(engine: str) -> None:
    """Downloads the jars with Maven unless they are there.

    Raises:
        DataError: Maven is missing or failed.
    """
    folder = jars(engine)
    if folder.is_dir():
        return
    if not shutil.which("mvn"):
        raise DataError("mvn: not found. Install Maven (Debian: apt-get install maven)")
    print(f"downloading the jars for {engine} with Maven, once ...", flush=True)
    partial = folder.with_name(f".{engine}.{os.getpid()}.partial")
    command = ["mvn", "-q", "-B", "-f", str(_HERE / "pom.xml"), "-P", engine, _COPY_JARS]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        lines = [line for line in process.stdout.splitlines() if "ERROR" in line]
        raise DataError(f"Maven failed: {lines[0] if lines else process.stderr.strip()}")
    partial.rename(folder)


@contextmanager
def started(engine: str, logs: Path, address: Address = Address()) -> Iterator[None]:
    """An engine and a pool of workers that run until the block ends.

    Args:
        engine: flink or spark.
        logs: folder for job-server.log, workers.log and the engine's temporary files.

    Raises:
        DataError: Java is missing, a port is taken, or the engine does not start.
    """
    if not shutil.which("java"):
        raise DataError("java: not found. Install Java 17 (Debian: openjdk-17-jre-headless)")
    for port in (address.job, address.pool):
        if _answers(port):
            raise DataError(
                f"port {port} is in use: is another engine running? Stop it, or choose other "
                "ports (--help)"
            )
    logs.mkdir(parents=True, exist_ok=True)
    pool_log, server_log = logs / "workers.log", logs / "job-server.log"
    environment = {**os.environ, "PYTHONPATH": python_path()}
    pool = [sys.executable, "-m", "data.worker_pool", f"--port={address.pool}"]
    with (
        _running(pool, pool_log, address.pool, environment),
        _running(_java(engine, logs, address), server_log, address.job, environment),
    ):
        yield


def _java(engine: str, logs: Path, address: Address) -> list[str]:
    opens = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENED]
    opens += [f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED_INTERNALS]
    slots = len(os.sched_getaffinity(0))
    if engine == "flink":
        (logs / "flink-conf.yaml").write_text(
            _FLINK_CONF.format(slots=slots, first=PORTS[0], last=PORTS[-1]), encoding="utf-8"
        )
        main = ["org.apache.beam.runners.flink.FlinkJobServerDriver"]
        main += ["--flink-master=[local]", f"--flink-conf-dir={logs}"]
    else:
        main = ["org.apache.beam.runners.spark.SparkJobServerDriver"]
        # The second number is the number of attempts per task.
        main += [f"--spark-master-url=local[{slots},4]"]
    return [
        *(
            "java",
            *opens,
            f"-Djava.io.tmpdir={logs}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ),
        *("-cp", f"{jars(engine)}/*", *main),
        *("--job-host=localhost", f"--job-port={address.job}"),
        *("--artifact-port=0", "--expansion-port=0", f"--artifacts-dir={logs}/artifacts"),
    ]


@contextmanager
def _running(command: list[str], log: Path, port: int, environment: dict) -> Iterator[None]:
    """Runs a process during the block, which starts once the port answers; logs to a file."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C must reach only this process, which then stops the others in order.
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _SECONDS_TO_START
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text().strip().splitlines() or [f"no answer on port {port}"]
                raise DataError(f"{command[0]} did not start: {lines[-1]}. See {log}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), timeout=1).close()
    except OSError:
        return False
    return True


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--fetch", action="store_true", help="only download the jars")
    parser.add_argument(
        "--job-port", type=int, default=Address.job, help="job server (default: %(default)s)"
    )
    parser.add_argument(
        "--pool-port", type=int, default=Address.pool, help="Python workers (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    address = Address(options.job_port, options.pool_port)
    logs = _TOOLS / "run" / options.engine
    try:
        fetch(options.engine)
        if options.fetch:
            return
        print(f"starting {options.engine} and a pool of Python workers ...", flush=True)
        with started(options.engine, logs, address):
            print(_ready(options.engine, address, logs), flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("stopped", flush=True)


def _ready(engine: str, address: Address, logs: Path) -> str:
    python = Path(os.path.relpath(sys.executable))
    more = []
    if address.job != DEFAULT_JOB_PORT:
        more.append(f"--job_endpoint=localhost:{address.job}")
    if address.pool != DEFAULT_POOL_PORT:
        more.append(f"--environment_config=localhost:{address.pool}")
    after = " ".join([" --", *more]) if more else ""
    return (
        f"{engine} is ready. In another shell:\n"
        f"  {python} local_runner.py --beam {engine}{after}\n"
        f"  {python} -m data.convert --voc VOCROOT --output DIR --beam {engine}{after}\n"
        f"logs: {os.path.relpath(logs)}/job-server.log and workers.log. Ctrl-C stops it"
    )


if __name__ == "__main__":
    sys.exit(main())

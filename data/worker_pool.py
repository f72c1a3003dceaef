"""A pool of Beam workers on this machine: `python -m data.worker_pool`.

An engine asks the pool for Python processes. Beam's own pool listens on all interfaces, starts
the first `python` in PATH, leaves its workers behind at SIGTERM, and blocks workers that print more
than a pipe holds. This one listens on loopback, where a task manager in the same pod or on the same
machine looks for it. Its workers are forks of a process that has already imported TFX, which takes
seconds, so they start at once.
"""

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.sdk_worker import SdkHarness
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils import thread_pool_executor

from data.beam_runner import DEFAULT_POOL_PORT

# Not this project, so that a worker runs the code as of its own start.
forkserver.set_forkserver_preload([SdkHarness.__module__, "tfx.v1"])


class _Worker(ForkServerProcess):
    """A worker process, with the methods of `subprocess.Popen` that Beam uses to stop it."""

    def __init__(self, endpoint: str, worker_id: str) -> None:
        super().__init__()
        self._endpoint, self._worker_id = endpoint, worker_id

    def run(self) -> None:
        """Works until the engine closes the connection."""
        SdkHarness(self._endpoint, worker_id=self._worker_id).run()

    def wait(self, timeout: float | None = None) -> None:
        """Waits for the end, or raises TimeoutExpired after `timeout` seconds."""
        self.join(timeout)
        if timeout and self.is_alive():
            raise subprocess.TimeoutExpired(self.name, timeout)


class WorkerPool(BeamFnExternalWorkerPoolServicer):
    """Starts a worker process whenever an engine asks for one."""

    def StartWorker(
        self, start_worker_request: beam_fn_api_pb2.StartWorkerRequest, unused_context: object
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        """Beam's gRPC method: starts a process that connects to the endpoint."""
        endpoint = start_worker_request.control_endpoint.url
        worker_id = start_worker_request.worker_id
        process = _Worker(endpoint, worker_id)
        process.start()
        print(f"worker {worker_id} of {endpoint} is process {process.pid}", flush=True)
        self._worker_processes[worker_id] = process
        return beam_fn_api_pb2.StartWorkerResponse()

    def stop(self) -> None:
        """Ends all workers."""
        processes = list(self._worker_processes.values())
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m data.worker_pool", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=DEFAULT_POOL_PORT, help="on loopback (default: %(default)s)"
    )
    port = parser.parse_args(arguments).port
    server = grpc.server(
        thread_pool_executor.shared_unbounded_instance(),
        options=[
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.max_ping_strikes", 0),
            # Otherwise a second pool could share the port, and engines would get workers of either.
            ("grpc.so_reuseport", 0),
        ],
    )
    pool = WorkerPool(use_process=True)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        server.add_insecure_port(f"localhost:{port}")
    except RuntimeError:
        print(f"error: port {port} is in use. Stop the process there, or give another --port")
        return 2
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    import data.beam_worker  # noqa: F401  (sets the environment that workers inherit)

    forkserver.ensure_running()
    server.start()
    print(f"worker pool: waiting for engines on localhost:{port}", flush=True)
    stop.wait()
    server.stop(0)
    pool.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

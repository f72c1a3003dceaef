"""Serves SavedModels over REST and gRPC like TensorFlow Serving, where that is not installed.

ssd serve --model_name ssd --model_base_path DIR --rest_api_port 8501

The flags are TensorFlow Serving's; those that have no effect here are accepted with a warning.
"""

import argparse
import asyncio
import gc
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from serving.model_server.status import StatusError

if TYPE_CHECKING:
    from serving.model_server.servable import Servable

# TensorFlow Serving's exit status when a model fails to load at startup.
_NO_MODEL = 255
# TensorFlow Serving's flags that are accepted and ignored.
_NO_EFFECT = (
    "batching_parameters_file",
    "enable_batching",
    "enable_per_model_batching_params",
    "enable_profiler",
    "flush_filesystem_caches",
    "grpc_channel_arguments",
    "grpc_max_threads",
    "num_load_threads",
    "num_request_iterations_for_warmup",
    "num_unload_threads",
    "per_process_gpu_memory_fraction",
    "remove_unused_fields_from_bundle_metagraph",
    "tensorflow_inter_op_parallelism",
    "tensorflow_intra_op_parallelism",
    "tensorflow_session_parallelism",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
)


def parse_flags(arguments: Arguments) -> argparse.Namespace:
    """Parses the command line; exits on an unknown flag."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--model_name", default="default", help="name of a single model")
    flag("--model_base_path", type=Path, help="folder with its versions")
    flag("--model_config_file", type=Path, help="models.config, instead of a single model")
    flag("--model_config_file_poll_wait_seconds", type=float, default=0, help="0: read it once")
    flag("--rest_api_port", type=int, default=0, help="0: no REST")
    flag("--port", type=int, default=0, help="0: no gRPC")
    flag(
        "--rest_api_num_threads",
        type=int,
        default=4 * (os.cpu_count() or 1),
        help="concurrent runs",
    )
    flag("--rest_api_timeout_in_ms", type=int, default=30_000)
    flag("--rest_api_enable_cors_support", **_SWITCH)
    flag("--monitoring_config_file", type=Path, help="enables Prometheus metrics")
    flag("--file_system_poll_wait_seconds", type=float, default=1)
    flag("--max_num_load_retries", type=int, default=5)
    flag("--load_retry_interval_micros", type=int, default=60_000_000)
    flag("--enable_model_warmup", **{**_SWITCH, "default": True})
    flag(
        "--allow_version_labels_for_unavailable_models",
        **_SWITCH,
        help="always on: a new label may name a version that is not loaded yet",
    )
    for name in _NO_EFFECT:
        flag(f"--{name}", nargs="?", const=True, help=argparse.SUPPRESS)
    own = parser.add_argument_group("options that TensorFlow Serving lacks").add_argument
    own("--host", default="127.0.0.1", help="address to listen on (0.0.0.0: all)")
    own("--max_body_bytes", type=int, default=32 * 2**20, help="larger requests get 413")
    own("--max_requests", type=int, default=64, help="queued or running; the rest get 503")
    own("--drain_seconds", type=float, default=20, help="wait for requests in flight at SIGTERM")
    own("--enable_page", **{**_SWITCH, "default": True}, help="the page at / for browsers")
    own("--verbose", action="store_true", help="show what the libraries log")
    flags = parser.parse_args(arguments)
    if not flags.model_base_path and not flags.model_config_file:
        parser.error("--model_base_path or --model_config_file is needed")
    if not flags.rest_api_port and not flags.port:
        parser.error("--rest_api_port or --port is needed")
    ignored = [f"--{name}" for name in _NO_EFFECT if getattr(flags, name) is not None]
    if ignored:
        print(f"warning: no effect in this server: {', '.join(ignored)}", file=sys.stderr)
    return flags


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


_SWITCH: dict[str, Any] = {
    "type": _switch,
    "nargs": "?",
    "const": True,
    "default": False,
    "metavar": "BOOL",
}


class Server:
    """The models and ports of a server process."""

    def __init__(self, flags: argparse.Namespace) -> None:
        # TensorFlow takes seconds to import: only once the flags are valid.
        from serving.model_server.backend import Backend
        from serving.model_server.manager import ModelManager
        from serving.model_server.metrics import Metrics
        from serving.model_server.model_config import (
            ModelConfig,
            check_base_path,
            latest,
            read_metrics_path,
            read_models,
        )
        from serving.model_server.request_log import RequestLogs
        from serving.model_server.rest import RestApi

        self._flags = flags
        self._read_models = lambda: (
            read_models(flags.model_config_file)
            if flags.model_config_file
            else [ModelConfig(flags.model_name, flags.model_base_path, latest())]
        )
        models = self._read_models()
        if not flags.model_config_file:
            check_base_path(flags.model_base_path, "--model_base_path")
        retries, wait_s = flags.max_num_load_retries, flags.load_retry_interval_micros / 1e6
        manager = ModelManager(models, self._load, retries, wait_s)
        executor = ThreadPoolExecutor(flags.rest_api_num_threads, "request")
        limits = flags.max_body_bytes, flags.max_requests, flags.rest_api_timeout_in_ms / 1000
        self._backend = Backend(manager, Metrics(), RequestLogs(models), executor, *limits)
        config = flags.monitoring_config_file
        metrics_path = read_metrics_path(config) if config else None
        cors = flags.rest_api_enable_cors_support
        self._rest = RestApi(self._backend, metrics_path, flags.enable_page, cors)
        self._stopping = threading.Event()

    def load_models(self) -> None:
        """Waits until every model has a version in service; StatusError if one never will."""
        manager = self._backend.manager
        manager.poll()
        waiting = None
        while not manager.ready():
            if manager.waiting() != waiting:
                waiting = manager.waiting()
                print(f"waiting for a version of {waiting}", flush=True)
            time.sleep(self._flags.file_system_poll_wait_seconds)
            manager.poll()

    async def serve(self) -> None:
        """Serves until SIGTERM or SIGINT, then finishes the requests in flight."""
        from aiohttp import web

        from serving.model_server.http_server import HttpServer

        flags = self._flags
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        grpc_server = None
        if flags.port:
            from serving.model_server.grpc_service import start_grpc_server

            grpc_server, health = start_grpc_server(f"{flags.host}:{flags.port}", self._backend)
        http_server = HttpServer(self._rest, self._backend.timeout_s, flags.max_body_bytes)
        runner = web.ServerRunner(http_server, shutdown_timeout=0.5)
        await runner.setup()
        if flags.rest_api_port:
            await web.TCPSite(runner, flags.host, flags.rest_api_port).start()
        threading.Thread(target=self._poll, name="poll", daemon=True).start()
        ports = [(flags.rest_api_port, "REST"), (flags.port, "gRPC")]
        where = ", ".join(f"{kind} at {flags.host}:{port}" for port, kind in ports if port)
        print(f"serving {', '.join(self._backend.manager.model_names)}: {where}", flush=True)
        await stop.wait()
        print("stopping: finishing requests in flight", flush=True)
        self._stopping.set()
        if grpc_server:
            health.enter_graceful_shutdown()
            grpc_stopped = grpc_server.stop(flags.drain_seconds)
        for site in runner.sites:
            await site.stop()
        await http_server.drain(flags.drain_seconds)
        await runner.cleanup()
        if grpc_server:
            await asyncio.to_thread(grpc_stopped.wait)
        self._backend.logs.close()

    def _poll(self) -> None:
        flags = self._flags
        config_wait = flags.model_config_file_poll_wait_seconds
        next_config, last_refused = time.monotonic() + config_wait, None
        while not self._stopping.wait(flags.file_system_poll_wait_seconds):
            if config_wait and time.monotonic() >= next_config:
                next_config = time.monotonic() + config_wait
                refused = self._reload()
                if refused and refused != last_refused:
                    print(f"configuration not applied: {refused}", file=sys.stderr, flush=True)
                last_refused = refused
            self._backend.manager.poll()
            self._backend.logs.finish_due()

    def _reload(self) -> str | None:
        """Applies the configuration file; returns the reason if it is refused."""
        try:
            self._backend.configure(self._read_models())
        except (DataError, StatusError) as error:
            return str(error)
        return None

    def _load(self, folder: Path) -> "Servable":
        from serving.model_server.servable import Servable

        start = time.perf_counter()
        try:
            servable = Servable(folder, self._flags.enable_model_warmup)
        except StatusError as error:
            self._backend.metrics.load(str(folder), False, time.perf_counter() - start)
            print(f"{folder} does not load: {error}", file=sys.stderr, flush=True)
            raise
        self._backend.metrics.load(str(folder), True, time.perf_counter() - start)
        print(f"loaded {folder} in {time.perf_counter() - start:.2f} s", flush=True)
        return servable


@as_command
def main(arguments: Arguments = None) -> int:
    """Runs the command line; returns the exit status."""
    flags = parse_flags(arguments)
    quiet(flags.verbose)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server = Server(flags)
        # TensorFlow's own objects live forever: spare the collection after each unload.
        gc.freeze()
        server.load_models()
        asyncio.run(server.serve())
    except OSError as error:
        raise DataError(str(error)) from error
    except StatusError as error:
        print(f"error: Failed to start server. {error}", file=sys.stderr)
        return _NO_MODEL
    return 0


def run(arguments: Arguments = None) -> NoReturn:
    """Runs `main` and exits, even if a model is still running after the drain time."""
    status = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    run()

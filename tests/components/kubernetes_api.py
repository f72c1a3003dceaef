"""A fake Kubernetes API for the real client, which validates what is created."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import kubernetes_validate
from kubernetes import client

VERSIONS = ("1.31", kubernetes_validate.latest_version())


def check(manifest: dict) -> None:
    """Fails on fields that are unknown to Kubernetes, missing or of the wrong type."""
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@contextmanager
def serving(answer: Callable[[str, str, dict | None], tuple[int, object]]) -> Iterator:
    """Runs a server that answers with `answer(method, path, body)`; yields a client for it.

    A str answer is a log.
    """

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "null")
            if self.command == "POST":
                check(body)
            status, found = answer(self.command, self.path, body)
            data = found if isinstance(found, str) else json.dumps(found)
            self.send_response(status)
            kind = "text/plain" if isinstance(found, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(data.encode())

        do_GET = do_POST = do_DELETE = handle_one

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    try:
        yield client.ApiClient(client.Configuration(host=host))
    finally:
        server.shutdown()
        server.server_close()

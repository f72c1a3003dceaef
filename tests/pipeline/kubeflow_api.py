"""An in-memory stand-in for Kubeflow Pipelines 2, as far as kfp's client needs it."""

import collections
import datetime
import ipaddress
import json
import ssl
import threading
import urllib.parse
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TOKEN = "let-me-in"


class KubeflowApi:
    """The server's state and the requests it got; `host` is its address."""

    def __init__(self):
        # Pipelines by namespace, which is None on single-user Kubeflow.
        self.pipelines = collections.defaultdict(dict)
        self.versions, self.experiments = {}, {}
        self.runs, self.recurring, self.logs = {}, {}, {}
        self.uploads = []
        self.token = None
        self.host = None

    def answer(self, method: str, path: str, query: dict, body: bytes):
        """Status and content of the response."""
        if path == "/apis/v2beta1/healthz":
            return 200, {"multi_user": False}
        kind, *rest = path.removeprefix("/apis/v2beta1/").split("/")
        if path.startswith("/apis/v1beta1/runs/"):
            run = self.runs[path.rpartition("/")[2]]
            workflow = (run.get("shown") or run["states"][0])["workflow"]
            return 200, {"run": {}, "pipeline_runtime": {"workflow_manifest": workflow}}
        if path.startswith("/apis/v1alpha1/"):
            name = path.split("/")[6]
            if name not in self.logs:
                return 400, {"message": f"pods {name!r} not found"}
            return 200, self.logs[name]
        if kind == "pipelines" and rest[:1] == ["upload_version"]:
            found = self.versions[query["pipelineid"]]
            if _matching(found, query["name"]):
                return 409, {"message": f"version {query['name']} already exists"}
            self.uploads.append(body)
            version = {
                "pipeline_id": query["pipelineid"],
                "pipeline_version_id": f"v-{query['name']}",
                "display_name": query["name"],
            }
            found.append(version)
            return 200, version
        if kind == "pipelines" and rest:
            found = self.versions[rest[0]]
            return 200, {"pipeline_versions": _filtered(found, query)}
        if kind == "pipelines" and method == "GET":
            found = self.pipelines[query.get("namespace")].values()
            return 200, {"pipelines": _filtered(found, query)}
        if kind == "pipelines":
            new = json.loads(body)
            owner, name = new.get("namespace"), new["display_name"]
            if name in self.pipelines[owner]:
                return 409, {"message": f"the name {name} already exists in namespace {owner}"}
            new["pipeline_id"] = "-".join(filter(None, ("p", owner, name)))
            self.versions[new["pipeline_id"]] = []
            self.pipelines[owner][name] = new
            return 200, new
        if kind == "experiments" and method == "GET":
            return 200, {"experiments": _filtered(self.experiments.values(), query)}
        if kind == "experiments":
            new = json.loads(body)
            new["experiment_id"] = f"e-{new['display_name']}"
            self.experiments[new["display_name"]] = new
            return 200, new
        if kind == "runs" and method == "GET":
            if rest[0] not in self.runs:
                return 404, {"message": f"Run {rest[0]} not found"}
            run = self.runs[rest[0]]
            run["shown"] = run["states"].pop(0) if len(run["states"]) > 1 else run["states"][0]
            return 200, {key: run["shown"][key] for key in ("run_id", "state")}
        if kind == "runs":
            run = json.loads(body) | {"run_id": f"r-{len(self.runs) + 1}"}
            self.runs[run["run_id"]] = run | {"states": [run_state(run["run_id"], "PENDING")]}
            return 200, run
        if kind == "recurringruns":
            run = json.loads(body) | {"recurring_run_id": "c-1"}
            self.recurring["c-1"] = run
            return 200, run
        return 404, {"message": f"{method} {path} is not known"}


WORKFLOW = "ssd-tiny-x7k2p"


def run_state(run_id: str, state: str, attempts: int = 0, **tasks) -> dict:
    """A run as the server reports it, with the Argo Workflow behind it.

    Each task is a state (Argo's phases in capitals), or STATE:MESSAGE with its pod's message. With
    `attempts` each task has retries and was started that often.
    """
    nodes = {}

    def node(name, kind, phase, boundary="", message="", template="system-container-driver"):
        number = zlib.crc32(name.encode())
        entry = {
            "id": f"{WORKFLOW}-{number}",
            "name": name,
            "displayName": name.rpartition(".")[2] if "onExit" not in name else name,
            "type": kind,
            "phase": phase.capitalize(),
            "boundaryID": boundary,
            "templateName": template,
            "startedAt": f"2026-01-01T00:00:{len(nodes):02}Z",
            "message": message,
        }
        nodes[entry["id"]] = entry
        return entry

    root = node("root", "DAG", state)
    before = None
    for name, task in tasks.items():
        phase, _, message = task.partition(":")
        driver = node(
            f"root.{name}-driver", "Retry" if attempts else "Pod", "Succeeded", root["id"]
        )
        if attempts:
            node(f"root.{name}-driver(0)", "Pod", "Succeeded", root["id"])
        node(f"{name}-driver.onExit", "Pod", "Succeeded", root["id"])
        component = node(f"root.{name}", "DAG", phase, root["id"], template="executor-dag")
        where, template = component["id"], "system-container-impl"
        path = f"root.{name}.executor"
        if not attempts:
            last = node(path, "Pod", phase, where, message, template)
        else:
            retry = node(path, "Retry", phase, where, "", template)
            pods = [
                node(
                    f"{path}({index})",
                    "Pod",
                    phase if index == attempts - 1 else "Failed",
                    where,
                    message if index == attempts - 1 else "Error (exit code 1)",
                    template,
                )
                for index in range(attempts)
            ]
            retry["children"] = [pod["id"] for pod in pods]
            last = pods[-1]
        # Later tasks in the graph are children too.
        if before:
            before["children"] = [driver["id"]]
        before = last
    manifest = {"metadata": {"name": WORKFLOW}, "status": {"nodes": nodes}}
    return {"run_id": run_id, "state": state, "workflow": json.dumps(manifest)}


def pod(component: str, attempt: int | None = None) -> str:
    """The name of a component's pod, as Argo builds it."""
    name = f"root.{component}.executor" + ("" if attempt is None else f"({attempt - 1})")
    return f"{WORKFLOW}-system-container-impl-{zlib.crc32(name.encode())}"


def _filtered(found, query: dict) -> list:
    if "filter" not in query:
        return list(found)
    (predicate,) = json.loads(query["filter"])["predicates"]
    assert predicate["key"] == "display_name"
    return _matching(found, predicate["stringValue"])


def _matching(found, name: str) -> list:
    return [entry for entry in found if entry["display_name"] == name]


@contextmanager
def serving(tls: ssl.SSLContext | None = None):
    """Runs the server on a free port; yields its KubeflowApi."""
    api = KubeflowApi()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self):
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            wanted = api.token and f"Bearer {api.token}"
            if wanted and self.headers.get("Authorization") != wanted:
                status, content = 401, {"message": "Request not authenticated"}
            else:
                status, content = api.answer(self.command, url.path, query, body)
            text = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            kind = "text/plain" if isinstance(content, str) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = _handle

        def log_message(self, *_):
            """Silences the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    api.host = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


def make_certificate(folder):
    """A certificate for server, client and authority at once, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    private = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, private, plain))
    return str(folder / "cert.pem"), str(folder / "key.pem")

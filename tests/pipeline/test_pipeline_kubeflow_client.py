"""submit, status and logs against a stand-in for Kubeflow Pipelines 2."""

import base64
import gzip
import json
import re
import socket
import ssl
import time

import pytest
import yaml

import kubeflow_runner
from pipeline.kubeflow import client
from tests.pipeline.kubeflow_api import TOKEN, make_certificate, pod, run_state, serving

_SPEC = {
    "pipelineInfo": {"name": "ssd-tiny"},
    "schemaVersion": "2.1.0",
    "sdkVersion": "tfx",
    "defaultPipelineRoot": "s3://b/root",
    "deploymentSpec": {},
    "components": {},
    "root": {
        "dag": {
            "tasks": {
                name: {"taskInfo": {"name": name}, "cachingOptions": caching}
                for name, caching in (("Trainer", {"enableCache": True}), ("Pusher", {}))
            }
        },
        "inputDefinitions": {
            "parameters": {
                "data": {"parameterType": "STRING", "defaultValue": "s3://b/records"},
                "steps": {"parameterType": "NUMBER_INTEGER", "defaultValue": 8},
                "min_map": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 0.5},
            }
        },
    },
}


@pytest.fixture
def api():
    with serving() as api:
        yield api


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "ssd.yaml"
    path.write_text(yaml.safe_dump(_SPEC))
    return path


@pytest.fixture
def call(api, capsys):
    """Runs a command against the server; returns status, output and errors."""

    def call(command, *arguments, host=None):
        options = (command, "--host", host or api.host, *map(str, arguments))
        status = kubeflow_runner.main(options)
        return status, *capsys.readouterr()

    return call


def test_a_run_is_submitted_with_typed_parameters(api, call, package):
    arguments = ("--experiment", "trial", "--run-name", "first", "--namespace", "team")
    values = ("--param", "steps=20", "--param", "min_map=0.25", "--param", "data=s3://b/new")
    status, out, _ = call("submit", package, *arguments, *values)
    assert status == 0
    assert out.startswith("run r-1\n")
    run = api.runs["r-1"]
    # The API server ignores the document's own (backend/src/v2/driver/root_dag.go, KFP 2.17).
    assert run["runtime_config"]["pipeline_root"] == "s3://b/root"
    assert run["display_name"] == "first"
    assert run["experiment_id"] == "e-trial"
    assert api.experiments["trial"]["namespace"] == "team"
    assert run["runtime_config"]["parameters"] == {
        "steps": 20,
        "min_map": 0.25,
        "data": "s3://b/new",
    }
    assert run["pipeline_version_reference"] == {
        "pipeline_id": "p-team-ssd-tiny",
        "pipeline_version_id": api.versions["p-team-ssd-tiny"][0]["pipeline_version_id"],
    }
    assert b"ssd-tiny" in api.uploads[0]


def test_every_namespace_has_its_own_pipeline(api, call, package):
    for owner in ("team", "team", "others", None):
        where = ("--namespace", owner) if owner else ()
        assert call("submit", package, *where)[0] == 0
    used = [run["pipeline_version_reference"]["pipeline_id"] for run in api.runs.values()]
    assert used == [*["p-team-ssd-tiny"] * 2, "p-others-ssd-tiny", "p-ssd-tiny"]
    assert len(api.uploads) == 3


def test_a_file_is_uploaded_once_and_a_changed_one_as_a_new_version(api, call, package):
    for _ in range(2):
        assert call("submit", package)[0] == 0
    assert len(api.uploads) == 1
    package.write_text(package.read_text() + "# changed\n")
    assert call("submit", package)[0] == 0
    assert len(api.uploads) == 2
    used = [run["pipeline_version_reference"]["pipeline_version_id"] for run in api.runs.values()]
    assert used[0] == used[1] != used[2]


def test_a_version_that_exists_is_an_error(api, call, package):
    assert call("submit", package, "--version", "one")[0] == 0
    (run,) = api.runs.values()
    assert run["pipeline_version_reference"]["pipeline_version_id"] == "v-one"
    status, _, err = call("submit", package, "--version", "one")
    assert status == 2
    assert err.startswith("error: pipeline ssd-tiny already has a version one.")


def test_without_cache_the_file_is_sent_with_the_run(api, call, package):
    assert call("submit", package, "--no-cache")[0] == 0
    assert api.uploads == []
    spec = api.runs["r-1"]["pipeline_spec"]
    assert spec["pipelineInfo"]["name"] == "ssd-tiny"
    caching = {name: t["cachingOptions"] for name, t in spec["root"]["dag"]["tasks"].items()}
    assert not any(options.get("enableCache") for options in caching.values())
    assert set(caching) == {"Trainer", "Pusher"}
    assert api.runs["r-1"]["runtime_config"]["pipeline_root"] == "s3://b/root"


def test_by_default_each_task_is_cached_as_compiled(api, call, package):
    assert call("submit", package)[0] == 0
    (upload,) = api.uploads
    assert upload.count(b"enableCache: true") == 1
    assert "pipeline_spec" not in api.runs["r-1"]
    assert re.fullmatch(r"ssd-tiny \d{4}-\d\d-\d\d [\d:]{8}", api.runs["r-1"]["display_name"])


def test_cron_makes_a_recurring_run(api, call, package):
    status, out, _ = call("submit", package, "--cron", "0 0 3 * * *", "--param", "steps=9")
    assert (status, out) == (0, "recurring run c-1: 0 0 3 * * *\n")
    recurring = api.recurring["c-1"]
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert recurring["mode"] == "ENABLE"
    assert recurring["no_catchup"] is True
    assert recurring["max_concurrency"] == 1
    assert recurring["runtime_config"] == {
        "parameters": {"steps": 9},
        "pipeline_root": "s3://b/root",
    }
    assert api.runs == {}


def test_status_lists_components_in_order(api, call):
    state = run_state("r-7", "RUNNING", ImportExampleGen="SUCCEEDED", Trainer="RUNNING")
    api.runs["r-7"] = {"states": [state]}
    status, out, _ = call("status", "r-7")
    assert status == 0
    assert out == "run r-7: RUNNING\n  ImportExampleGen succeeded\n  Trainer running\n"


@pytest.mark.parametrize("last, expected", [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_wait_follows_a_run_to_its_end(api, call, package, monkeypatch, last, expected):
    def shown(run_id):
        states = [
            run_state(run_id, "RUNNING", Trainer="RUNNING"),
            run_state(run_id, "RUNNING", Trainer="RUNNING"),
            run_state(run_id, last, Trainer=last),
        ]
        monkeypatch.setattr(time, "sleep", lambda _: None)
        return {"states": states}

    answer = api.answer

    def answer_with_states(method, path, query, body):
        found = answer(method, path, query, body)
        if method == "POST" and path.endswith("/runs"):
            api.runs["r-1"] = shown("r-1")
        return found

    api.answer = answer_with_states
    status, out, _ = call("submit", package, "--wait")
    assert status == expected
    lines = out.splitlines()[2:]
    assert lines == [f"  Trainer {state}" for state in ("running", last.lower())] + [
        f"run r-1: {last}"
    ]


def test_wait_ends_when_an_image_cannot_be_pulled(api):
    problem = "PENDING:ImagePullBackOff: Back-off pulling image reg/ssd:1"
    api.runs["r-1"] = {"states": [run_state("r-1", "RUNNING", Transform=problem)]}
    cluster = client.Cluster(client.Connection(api.host))
    with pytest.raises(client.DataError, match=r"Transform: its image cannot be pulled .*--image"):
        cluster.wait("r-1", lambda task: None)


def test_logs_come_from_the_executors(api, call):
    api.runs["r-7"] = {
        "states": [run_state("r-7", "FAILED", Transform="SUCCEEDED", Trainer="FAILED")]
    }
    api.logs = {pod("Transform"): "transformed\n", pod("Trainer"): "step=1\n"}
    assert call("logs", "r-7")[1] == "==> Transform\ntransformed\n==> Trainer\nstep=1\n"
    assert call("logs", "r-7", "Trainer")[1] == "==> Trainer\nstep=1\n"
    status, _, err = call("logs", "r-7", "Trainr")
    assert status == 2
    assert err == "error: run r-7 has no task Trainr; it has Transform, Trainer\n"


def test_attempts_are_not_components(api, call):
    state = run_state("r-7", "RUNNING", attempts=3, Trainer="RUNNING:OOMKilled")
    api.runs["r-7"] = {"states": [state]}
    api.logs = {pod("Trainer", n): f"step={n - 1}\n" for n in (1, 2, 3)}
    out = call("status", "r-7")[1]
    assert out == "run r-7: RUNNING\n  Trainer running, attempt 3: OOMKilled\n"
    out = call("logs", "r-7")[1]
    titles = [f"==> Trainer (attempt {number})" for number in (1, 2, 3)]
    assert out.splitlines() == [
        line for number, title in enumerate(titles) for line in (title, f"step={number}")
    ]


def test_a_failed_driver_is_reported(api, call):
    """Argo silently skips the component itself."""
    state = run_state("r-7", "FAILED", Trainer="OMITTED")
    state["workflow"] = state["workflow"].replace(
        '"displayName": "Trainer-driver", "type": "Pod", "phase": "Succeeded"',
        '"displayName": "Trainer-driver", "type": "Pod", "phase": "Failed"',
    )
    api.runs["r-7"] = {"states": [state]}
    out = call("status", "r-7")[1]
    assert out.startswith("run r-7: FAILED\n  Trainer failed: its driver failed: no message")


def test_a_compressed_workflow_is_read(api, call):
    state = run_state("r-7", "RUNNING", Trainer="RUNNING")
    workflow = json.loads(state["workflow"])
    nodes = json.dumps(workflow["status"].pop("nodes")).encode()
    workflow["status"]["compressedNodes"] = base64.b64encode(gzip.compress(nodes)).decode()
    api.runs["r-7"] = {"states": [{**state, "workflow": json.dumps(workflow)}]}
    assert call("status", "r-7")[1] == "run r-7: RUNNING\n  Trainer running\n"


def test_without_the_workflow_the_runs_details_are_used(api, call):
    def detail(name, pod=None, children=(), **more):
        tasks = [{"pod_name": child} for child in children]
        return {"display_name": name, "pod_name": pod, "child_tasks": tasks, **more}

    details = [
        detail("root"),
        detail("Trainer-driver", "ssd-driver-1"),
        detail("Trainer", "ssd-dag-1", ["ssd-driver-1", "ssd-impl-0"], state="RUNNING"),
        detail("executor", "ssd-impl-0", ["ssd-impl-1", "ssd-impl-2"], state="RUNNING"),
        detail("executor(1)", "ssd-impl-1", state="RUNNING", error={"message": "Pending"}),
        detail("executor(0)", "ssd-impl-2", ["ssd-driver-2"], state="FAILED"),
        detail("Pusher-driver", "ssd-driver-2", ["ssd-dag-2"]),
        # A pod without its own detail is known only by name.
        detail("Pusher", "ssd-dag-2", ["ssd-impl-3"], state="PENDING"),
    ]
    run = {"run_id": "r-7", "state": "RUNNING", "run_details": {"task_details": details}}
    plain = api.answer
    api.answer = lambda method, path, query, body: (
        (200, run)
        if path == "/apis/v2beta1/runs/r-7"
        else (404, {"message": "Not Found"})
        if path.startswith("/apis/v1beta1/")
        else plain(method, path, query, body)
    )
    api.logs = {"ssd-impl-1": "resume\n", "ssd-impl-2": "step=1\n", "ssd-impl-3": "pushed\n"}
    out = call("status", "r-7")[1]
    assert out == "run r-7: RUNNING\n  Trainer running, attempt 2: Pending\n  Pusher pending\n"
    assert call("logs", "r-7")[1].splitlines() == [
        *("==> Trainer (attempt 1)", "step=1", "==> Trainer (attempt 2)", "resume"),
        *("==> Pusher", "pushed"),
    ]


def test_a_run_that_has_not_started_has_no_components(api, call):
    api.runs["r-7"] = {"states": [{"run_id": "r-7", "state": "PENDING", "workflow": ""}]}
    assert call("status", "r-7")[1] == "run r-7: PENDING\n"
    assert call("logs", "r-7")[1] == ""


def test_a_missing_log_does_not_hide_the_others(api, call):
    api.runs["r-7"] = {"states": [run_state("r-7", "RUNNING", attempts=2, Trainer="RUNNING")]}
    api.logs = {pod("Trainer", 2): "resume step=400\n"}
    status, out, _ = call("logs", "r-7")
    assert status == 0
    assert out == (
        f"==> Trainer (attempt 1)\nno log: pods '{pod('Trainer', 1)}' not found\n"
        "==> Trainer (attempt 2)\nresume step=400\n"
    )


def test_wait_reports_each_attempt(api, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    states = [
        run_state("r-1", state, attempts=number, Trainer=state)
        for state, number in (("RUNNING", 1), ("RUNNING", 2), ("RUNNING", 2), ("SUCCEEDED", 2))
    ]
    api.runs["r-1"] = {"states": states}
    seen = []
    assert client.Cluster(client.Connection(api.host)).wait("r-1", seen.append) == "SUCCEEDED"
    assert [(task.state, task.attempt) for task in seen] == [
        ("RUNNING", 1),
        ("RUNNING", 2),
        ("SUCCEEDED", 2),
    ]


def test_a_token_is_requested_and_sent(api, call, package, monkeypatch):
    api.token = TOKEN
    status, _, err = call("submit", package)
    assert status == 2
    assert err.startswith(f"error: {api.host}: 401, not signed in. Give --existing-token")
    assert call("submit", package, "--existing-token", TOKEN)[0] == 0
    monkeypatch.setenv("KFP_TOKEN", TOKEN)
    assert call("submit", package)[0] == 0


def test_a_client_certificate_is_sent(call, package, tmp_path):
    cert, key = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    tls.load_verify_locations(cert)
    tls.verify_mode = ssl.CERT_REQUIRED
    with serving(tls) as api:
        trust = ("--ssl-ca-cert", cert)
        mine = ("--client-cert", cert, "--client-key", key)
        assert call("submit", package, *trust, *mine, host=api.host)[0] == 0
        assert list(api.runs) == ["r-1"]
        # A connection leaves nothing behind for the next.
        for options in (trust, mine):
            status, _, err = call("submit", package, *options, host=api.host)
            assert status == 2
            assert err.startswith(f"error: {api.host}: cannot be reached (")
        assert list(api.runs) == ["r-1"]


def test_an_unreachable_host_is_reported_at_once(call, package):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{free.getsockname()[1]}"
    begun = time.monotonic()
    status, _, err = call("submit", package, host=host)
    assert status == 2
    assert err.startswith(f"error: {host}: cannot be reached (")
    assert "Connection refused" in err and "port-forward" in err
    assert time.monotonic() - begun < 5


def test_an_unknown_run_is_reported(api, call):
    status, _, err = call("status", "r-9")
    assert status == 2
    assert err.startswith(f"error: {api.host}: run r-9 was not found (Run r-9 not found).")


@pytest.mark.parametrize(
    "value, expected",
    [
        ("stepz=1", "--param stepz: no such parameter; choose from data, min_map, steps"),
        ("steps=many", "--param steps=many: not a number_integer"),
        (
            "data=s3:///new",
            "--param data s3:///new: the bucket is missing. Write s3://BUCKET/FOLDER",
        ),
        ("data=/volume", "--param data /volume: must start with s3:// or minio:// or gs://"),
        ("min_map=high", "--param min_map=high: not a number_double"),
    ],
)
def test_wrong_parameters_are_rejected_before_the_upload(api, call, package, value, expected):
    status, _, err = call("submit", package, "--param", value)
    assert (status, err) == (2, f"error: {expected}\n")
    assert api.uploads == []


def test_records_on_a_volume_can_only_be_replaced_by_others_on_one(api, call, package):
    package.write_text(package.read_text().replace("s3://b/records", "/volume/records"))
    assert call("submit", package, "--param", "data=/volume/new")[0] == 0
    status, _, err = call("submit", package, "--param", "data=s3://b/new")
    assert (status, err) == (2, "error: --param data s3://b/new: must start with /\n")


@pytest.mark.parametrize("text", ["", "- a list", "pipelineInfo: {name: x}", "{:"])
def test_a_file_that_is_not_a_pipeline_is_rejected(call, tmp_path, text):
    path = tmp_path / "ssd.yaml"
    path.write_text(text)
    status, _, err = call("submit", path)
    assert status == 2
    assert err.startswith(f"error: {path}: not a compiled pipeline")
    status, _, err = call("submit", tmp_path / "none.yaml")
    assert err.startswith(f"error: {tmp_path}/none.yaml: cannot be read")

"""What submit and logs make of their options, without a server."""

from types import SimpleNamespace

import kfp
import pytest
from kfp_server_api import ApiException

import kubeflow_runner
from data.errors import DataError
from pipeline.kubeflow import client
from pipeline.kubeflow.workflow import Task

_PLACE = ("--host", "http://host/", "--namespace", "team", "--existing-token", "t")
_TRUST = ("--cookies", "c=1", "--ssl-ca-cert", "ca", "--client-cert", "mine", "--client-key", "k")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command; returns its status, its output and the requests to the cluster."""

    def run(*words, state="SUCCEEDED"):
        seen = {}

        class Cluster:
            def __init__(self, connection):
                seen["connection"] = connection

            def submit(self, package, **named):
                seen.update(named, package=str(package))
                return "r-1"

            def wait(self, run, on_change):
                on_change(Task("Trainer", "RUNNING", "out of memory", 2))
                return state

            def logs(self, run, component):
                seen["logs"] = run, component
                return [("Trainer", "line\n")]

        monkeypatch.setattr(client, "Cluster", Cluster)
        return kubeflow_runner.main(words), capsys.readouterr().out, seen

    return run


def test_the_options_of_submit_reach_the_cluster(run, monkeypatch):
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    status, out, seen = run("submit", "ssd.yaml", "--host", "http://host/")
    assert (status, out) == (0, "run r-1\n  http://host/#/runs/details/r-1\n")
    assert seen.pop("connection") == client.Connection("http://host/")
    assert seen == {
        "package": "ssd.yaml",
        "experiment": "ssd",
        "run_name": None,
        "parameters": {},
        "cron": None,
        "version": None,
        "cache": True,
    }
    run_options = ("--experiment", "e", "--run-name", "n", "--version", "v", "--no-cache")
    more = ("--param", "steps=1", "--param", "data=s3://b/x=y", "--cron", "0 0 3 * * *")
    _, _, seen = run("submit", "ssd.yaml", *_PLACE, *_TRUST, *run_options, *more)
    assert seen.pop("connection") == client.Connection(
        "http://host/", "team", "t", "c=1", "ca", "mine", "k"
    )
    assert seen == {
        "package": "ssd.yaml",
        "experiment": "e",
        "run_name": "n",
        "parameters": {"steps": "1", "data": "s3://b/x=y"},
        "cron": "0 0 3 * * *",
        "version": "v",
        "cache": False,
    }


@pytest.mark.parametrize(("state", "expected"), [("SUCCEEDED", 0), ("FAILED: no room", 1)])
def test_with_wait_the_run_decides_the_exit_status(run, state, expected):
    status, out, _ = run("submit", "ssd.yaml", *_PLACE, "--wait", state=state)
    assert status == expected
    assert out.splitlines()[2:] == [
        "  Trainer running, attempt 2: out of memory",
        f"run r-1: {state}",
    ]


def test_logs_can_be_limited_to_a_component(run):
    assert run("logs", "r-7", "Trainer", *_PLACE)[1:] == (
        "==> Trainer\nline\n",
        {"connection": client.Connection("http://host/", "team", "t"), "logs": ("r-7", "Trainer")},
    )
    assert run("logs", "r-7", *_PLACE)[2]["logs"] == ("r-7", None)


def test_the_connection_reaches_kfp(monkeypatch):
    seen = {}
    monkeypatch.setattr(kfp.Client, "__init__", lambda _, **named: seen.update(named))
    client._Client(client.Connection("http://host", "team", "t", "c=1", "ca"))
    expected = {"host": "http://host", "namespace": "team", "existing_token": "t"}
    assert seen == {**expected, "cookies": "c=1", "ssl_ca_cert": "ca"}
    client._Client(client.Connection("http://host"))
    assert seen["namespace"] == "kubeflow", "kfp's value for none"


def test_certificates_reach_kfp_and_retries_are_off(monkeypatch):
    monkeypatch.setattr(kfp.Client, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(kfp.Client, "_load_config", lambda _: SimpleNamespace())
    mine = client._Client(client.Connection("http://host", client_cert="c", client_key="k"))
    assert vars(mine._load_config()) == {"cert_file": "c", "key_file": "k", "retries": 0}


@pytest.fixture
def cluster(monkeypatch):
    """Gives a cluster whose API answers every call with an error of this status."""

    def cluster(status):
        found = object.__new__(client.Cluster)
        found._connection = client.Connection("http://host")

        def refuse(*_):
            raise ApiException(status=status, reason="because")

        monkeypatch.setattr(found, "_call", refuse)
        return found

    return cluster


@pytest.mark.parametrize("status", [401, 403])
def test_a_log_that_may_not_be_read_is_an_error(cluster, status):
    with pytest.raises(DataError, match=f"http://host: {status}, not "):
        cluster(status)._log("r-1", "pod")
    assert cluster(500)._log("r-1", "pod") == "no log: because"


def test_the_details_of_a_run_stand_in_only_for_a_workflow_that_is_not_there(cluster):
    run = SimpleNamespace(run_details=None)
    assert cluster(404)._workflow("r-1", run).tasks() == []
    with pytest.raises(DataError, match="refused run r-1 with status 500: because"):
        cluster(500)._workflow("r-1", run)


def test_the_status_of_a_run_has_its_error(cluster, monkeypatch):
    found = cluster(404)
    error = SimpleNamespace(message="no room")
    for run, state in (
        (SimpleNamespace(state="FAILED", error=error, run_details=None), "FAILED: no room"),
        (SimpleNamespace(state=None, error=None, run_details=None), "PENDING"),
    ):
        monkeypatch.setattr(found, "_run", lambda _, run=run: run)
        assert found.status("r-1") == (state, [])

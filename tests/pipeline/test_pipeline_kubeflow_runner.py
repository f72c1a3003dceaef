"""What the options of submit, status and logs become, without a server."""

from types import SimpleNamespace

import kfp
import pytest

import kubeflow_runner
from pipeline.kubeflow import client
from pipeline.kubeflow.workflow import Task

_PLACE = ("--host", "http://host/", "--namespace", "team", "--existing-token", "t")
_TRUST = ("--cookies", "c=1", "--ssl-ca-cert", "ca", "--client-cert", "mine", "--client-key", "k")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command; gives its status, what it prints and what a cluster is asked for."""

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
def test_a_run_that_is_waited_for_decides_the_status(run, state, expected):
    status, out, _ = run("submit", "ssd.yaml", *_PLACE, "--wait", state=state)
    assert status == expected
    assert out.splitlines()[2:] == [
        "  Trainer running, attempt 2: out of memory",
        f"run r-1: {state}",
    ]


def test_logs_are_of_the_component_that_was_named(run):
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
    assert seen["namespace"] == "kubeflow", "what kfp takes for none"


def test_certificates_reach_kfp_and_nothing_is_tried_again(monkeypatch):
    monkeypatch.setattr(kfp.Client, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(kfp.Client, "_load_config", lambda _: SimpleNamespace())
    mine = client._Client(client.Connection("http://host", client_cert="c", client_key="k"))
    assert vars(mine._load_config()) == {"cert_file": "c", "key_file": "k", "retries": 0}

"""Submits compiled pipelines to Kubeflow Pipelines and follows their runs, with kfp's client."""

import contextlib
import hashlib
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import yaml

from data.errors import DataError
from pipeline.kubeflow.failures import check_image, explained, server_message
from pipeline.kubeflow.uris import DATA, MOUNTS, check_uri
from pipeline.kubeflow.workflow import Task, Workflow

_FINAL = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
_POLL_SECONDS = 10
_HEALTH_TIMEOUT = 10
# kfp's client has no methods for a run's Argo Workflow and a pod's log.
_WORKFLOW_PATH = "/apis/v1beta1/runs/{run_id}"
_LOG_PATH = "/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"


@dataclass(frozen=True)
class Connection:
    """How to reach the API server; field names are those of kfp's client where it has them."""

    host: str
    namespace: str | None = None
    existing_token: str | None = None
    cookies: str | None = None
    ssl_ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None


class _Client(kfp.Client):
    """kfp's client plus a client certificate; fails at once if the server cannot be reached."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        super().__init__(
            host=connection.host,
            # kfp treats this default as "none given".
            namespace=connection.namespace or "kubeflow",
            existing_token=connection.existing_token,
            cookies=connection.cookies,
            ssl_ca_cert=connection.ssl_ca_cert,
        )

    def _load_config(self, *args: Any, **kwargs: Any) -> kfp_server_api.Configuration:
        config = super()._load_config(*args, **kwargs)
        config.cert_file = self._connection.client_cert
        config.key_file = self._connection.client_key
        config.retries = 0
        return config

    def get_kfp_healthz(self, sleep_duration: int = 0) -> kfp_server_api.V2beta1GetHealthzResponse:
        """Asks once; kfp would retry for half a minute."""
        # The generated method has other names in other versions of kfp-server-api.
        return self._healthz_api.api_client.call_api(
            "/apis/v2beta1/healthz",
            "GET",
            response_type="V2beta1GetHealthzResponse",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _request_timeout=_HEALTH_TIMEOUT,
        )

    def create_pipeline(self, name: str, namespace: str | None) -> kfp_server_api.V2beta1Pipeline:
        """Creates a pipeline without a version; kfp's client has no method for that."""
        body = {"display_name": name} | ({"namespace": namespace} if namespace else {})
        return self._pipelines_api.api_client.call_api(
            "/apis/v2beta1/pipelines",
            "POST",
            header_params={"Content-Type": "application/json"},
            body=body,
            response_type="V2beta1Pipeline",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
        )


class Cluster:
    """Kubeflow Pipelines at a host. Every method raises DataError for what a user can fix."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        with explained(connection.host), _muted():
            self._client = _Client(connection)
            self._client.get_kfp_healthz()

    def submit(
        self,
        package: Path,
        *,
        experiment: str,
        run_name: str | None,
        parameters: dict,
        cron: str | None = None,
        version: str | None = None,
        cache: bool = True,
    ) -> str:
        """Uploads a compiled pipeline and starts a run of it, or with `cron` a recurring run.

        Args:
          version: name of the pipeline's version; by default a hash of the file, so that the same
            file is uploaded only once.
          cron: six fields, seconds first.

        Returns:
          The id of the run or recurring run.
        """
        spec = _read(package)
        values = _typed(spec, parameters)
        with explained(self._connection.host), _muted():
            if cache:
                source = self._upload(package, spec["pipelineInfo"]["name"], version)
            else:
                # kfp's client can turn off caching only in a file that it sends with the run.
                source = {"pipeline_package_path": str(package), "enable_caching": False}
            namespace = self._connection.namespace
            found = self._client.create_experiment(experiment, namespace=namespace)
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            run = {
                "experiment_id": found.experiment_id,
                "job_name": run_name or f"{spec['pipelineInfo']['name']} {now}",
                "params": values,
                # The API server does not read the document's defaultPipelineRoot.
                "pipeline_root": spec.get("defaultPipelineRoot"),
                **source,
            }
            if not cron:
                return self._client.run_pipeline(**run).run_id
            # A run takes the newest data, so there is no need to catch up on missed runs.
            return self._client.create_recurring_run(
                cron_expression=cron, no_catchup=True, max_concurrency=1, **run
            ).recurring_run_id

    def status(self, run_id: str) -> tuple[str, list[Task]]:
        """The state of a run, and its components in the order in which they started."""
        run = self._run(run_id)
        state = run.state or "PENDING"
        if run.error and run.error.message:
            state = f"{state}: {run.error.message}"
        return state, self._workflow(run_id, run).tasks()

    def wait(self, run_id: str, on_change: Callable[[Task], None]) -> str:
        """Follows a run to its end and returns its state.

        Raises:
          DataError: an image cannot be pulled, so the run would wait forever.
        """
        seen: dict[str, tuple[str, int]] = {}
        while True:
            state, tasks = self.status(run_id)
            for task in tasks:
                if seen.get(task.name) != (task.state, task.attempt):
                    seen[task.name] = task.state, task.attempt
                    on_change(task)
                check_image(task.name, task.error)
            if state.partition(":")[0] in _FINAL:
                return state
            time.sleep(_POLL_SECONDS)

    def logs(self, run_id: str, component: str | None = None) -> Iterator[tuple[str, str]]:
        """Components and the output of their containers, as far as their logs still exist."""
        workflow = self._workflow(run_id, self._run(run_id))
        names = [task.name for task in workflow.tasks()]
        if component and component not in names:
            raise DataError(
                f"run {run_id} has no task {component}; it has {', '.join(names) or 'none yet'}"
            )
        for name in [component] if component else names:
            pods = workflow.pods(name)
            for number, pod in enumerate(pods, 1):
                yield (
                    f"{name} (attempt {number})" if len(pods) > 1 else name,
                    self._log(run_id, pod),
                )

    def _run(self, run_id: str) -> kfp_server_api.V2beta1Run:
        with explained(self._connection.host, f"run {run_id}"):
            return self._client.get_run(run_id)

    def _workflow(self, run_id: str, run: kfp_server_api.V2beta1Run) -> Workflow:
        with explained(self._connection.host, f"run {run_id}"):
            try:
                found = self._call(_WORKFLOW_PATH.format(run_id=run_id), "object")
            except kfp_server_api.ApiException as error:
                if error.status != 404:
                    raise
                return Workflow.from_details(run.run_details and run.run_details.task_details or ())
        return Workflow(found.get("pipeline_runtime", {}).get("workflow_manifest", ""))

    def _call(self, path: str, response_type: str) -> Any:
        return self._client._run_api.api_client.call_api(
            path,
            "GET",
            response_type=response_type,
            auth_settings=["Bearer"],
            _return_http_data_only=True,
        )

    def _log(self, run_id: str, pod: str) -> str:
        with explained(self._connection.host, f"log of {pod}"):
            try:
                return self._call(_LOG_PATH.format(run_id=run_id, pod=pod), "str")
            except kfp_server_api.ApiException as error:
                if error.status in (401, 403):
                    raise
                # A deleted pod must not hide the logs of the others.
                return f"no log: {server_message(error)}"

    def _upload(self, package: Path, name: str, version: str | None) -> dict[str, Any]:
        """Ids of the pipeline and of the version with this file, as arguments for kfp."""
        pipeline_id = self._pipeline_id(name)
        wanted = version or hashlib.sha256(package.read_bytes()).hexdigest()[:12]
        found = self._client.list_pipeline_versions(
            pipeline_id, filter=_named(wanted)
        ).pipeline_versions
        if found and version:
            raise DataError(
                f"pipeline {name} already has a version {version}. Give another --version, or none "
                "to name it after the file's content"
            )
        if not found:
            found = [
                self._client.upload_pipeline_version(str(package), wanted, pipeline_id=pipeline_id)
            ]
        return {"pipeline_id": pipeline_id, "version_id": found[0].pipeline_version_id}

    def _pipeline_id(self, name: str) -> str:
        """The id of the pipeline with that name in the namespace; creates it if there is none.

        kfp's client would ignore the namespace, and create a version named like the pipeline.
        """
        namespace = self._connection.namespace
        found = self._client.list_pipelines(filter=_named(name), namespace=namespace).pipelines
        if found:
            return found[0].pipeline_id
        return self._client.create_pipeline(name, namespace).pipeline_id


def _named(name: str) -> str:
    """The API's filter for a display name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def _read(package: Path) -> dict:
    if package.suffix not in (".yaml", ".yml"):
        raise DataError(f"{package}: give a YAML file written by `ssd compile`")
    try:
        spec: Any = next(yaml.safe_load_all(package.read_text(encoding="utf-8")), None)
        spec["pipelineInfo"]["name"], spec["root"]["inputDefinitions"]["parameters"]
    except OSError as error:
        raise DataError(f"{package}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{package}: not a compiled pipeline. Use `ssd compile`") from error
    return spec


def _typed(spec: dict, parameters: dict[str, str]) -> dict:
    """A run's parameters, converted to the types that the pipeline declares."""
    declared = spec["root"]["inputDefinitions"]["parameters"]
    values = {}
    for name, text in parameters.items():
        if name not in declared:
            raise DataError(
                f"--param {name}: no such parameter; choose from {', '.join(sorted(declared))}"
            )
        if name == DATA:
            is_path = declared[name]["defaultValue"].startswith("/")
            check_uri(f"--param {DATA}", text, ("/",) if is_path else tuple(MOUNTS))
        kind = declared[name]["parameterType"]
        convert = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}.get(kind, str)
        try:
            values[name] = convert(text)
        except ValueError:
            raise DataError(f"--param {name}={text}: not a {kind.lower()}") from None
    return values


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Silences the links and warnings that kfp's client prints."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

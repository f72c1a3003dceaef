"""Advice for when Kubeflow Pipelines answers with an error, or not at all."""

import contextlib
import json
import re
from collections.abc import Iterator

import kfp_server_api
import urllib3

from data.errors import DataError

# Kubernetes' reasons why a container waits for its image.
_NO_IMAGE = re.compile(r"ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull")


@contextlib.contextmanager
def explained(host: str, what: str = "the pipeline") -> Iterator[None]:
    """Turns errors of kfp's client into DataError; `what` is the requested object."""
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise DataError(f"{host}: {_advice(error, what)}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise DataError(
            f"{host}: cannot be reached ({_reason(error)}). Check the address and the network; "
            "from outside the cluster, forward a port first: "
            "kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888"
        ) from error


def check_image(component: str, error: str) -> None:
    """Raises DataError if a component's error says that its image cannot be pulled."""
    if _NO_IMAGE.search(error):
        raise DataError(
            f"{component}: its image cannot be pulled ({error}). Check the name given to --image "
            "when the pipeline was compiled, that it was pushed, and that the cluster has the "
            "registry's secret"
        )


def _advice(error: kfp_server_api.ApiException, what: str) -> str:
    message = server_message(error)
    if error.status == 401:
        return (
            "401, not signed in. Give --existing-token (or the variable KFP_TOKEN) or --cookies "
            "of your login; a token that worked before has expired"
        )
    if error.status == 403:
        return f"403, not allowed: {message}. Check --namespace and your role in it"
    if error.status == 404:
        return f"{what} was not found ({message}). Check the id, and that --host is KFP 2's API"
    if error.status == 409:
        return f"{what} already exists ({message}). Choose another name"
    return f"refused {what} with status {error.status}: {message}"


def server_message(error: kfp_server_api.ApiException) -> str:
    """The API server's message for an error."""
    try:
        return json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        return error.reason or str(error.body)[:200]


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).rpartition(": ")[2]

"""URIs of object stores and the corresponding paths in a container."""

import os
import re
from collections.abc import Callable
from typing import Any

from data.errors import DataError

# Kubeflow's launcher downloads inputs to these folders before a component starts and uploads
# outputs from them when it ends; Vertex AI mounts Cloud Storage at /gcs.
MOUNTS = {"s3://": "/s3/", "minio://": "/minio/", "gs://": "/gcs/"}

# The run's parameter that names the folder of the records.
DATA = "data"

# A folder to use in place of `/`, to run containers' commands without containers.
MOUNT_ROOT = "SSD_MOUNT_ROOT"


def check_uri(option: str, uri: str, schemes: tuple[str, ...] = tuple(MOUNTS)) -> None:
    """Checks that `uri` names a bucket of an object store.

    Args:
      option: what the user set, for the error.
      schemes: the allowed ones.

    Raises:
      DataError: `uri` has another scheme, or no bucket.
    """
    scheme = next((scheme for scheme in schemes if uri.startswith(scheme)), None)
    if scheme is None:
        raise DataError(f"{option} {uri}: must start with {' or '.join(schemes)}")
    # "/", for paths, is the scheme without buckets.
    if scheme != "/" and not re.match(r"[\w.-]+(/|$)", uri.removeprefix(scheme)):
        raise DataError(f"{option} {uri}: the bucket is missing. Write {scheme}BUCKET/FOLDER")


def to_path(uri: str) -> str:
    """The path of a URI in a container; anything else unchanged."""
    for scheme, mount in MOUNTS.items():
        if uri.startswith(scheme):
            return _root() + mount + uri.removeprefix(scheme)
    return uri


def to_uri(path: str) -> str:
    """The URI of a path in a container; the inverse of `to_path`."""
    for scheme, mount in MOUNTS.items():
        if path.startswith(_root() + mount):
            return scheme + path.removeprefix(_root() + mount)
    return path


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Applies `change` to every string in a JSON value except keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {key: map_strings(item, change) for key, item in value.items()}
    return value


def _root() -> str:
    return os.environ.get(MOUNT_ROOT, "").rstrip("/")

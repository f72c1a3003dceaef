"""What a component requests from a cluster, with values that `--set` can express."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from data.settings import CHECKED, Settings, field_types, parse

# The entry of `Config.resources` that applies to every component.
ALL = "all"


def _written(form: str, words: str) -> AfterValidator:
    def check(entry: str) -> str:
        if not re.fullmatch(form, entry):
            raise ValueError(f"must be written as {words}")
        return entry

    return AfterValidator(check)


_Label = Annotated[str, _written(r"[^=\s]+=[^=\s]*", "label=value")]
_Taint = Annotated[
    str,
    _written(
        r"[^=:\s]+(=[^=:\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)",
        "key:Effect or key=value:Effect, like kubectl's taints",
    ),
]
# The name of a namespace, queue or similar object, or empty.
ObjectName = Annotated[
    str, _written(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?", "lower-case letters, digits and dashes")
]
_Volume = Annotated[str, _written(r"[a-z0-9][a-z0-9.-]*:/\S*", "claim:/path")]
_Secret = Annotated[
    str, _written(r"[A-Za-z_]\w*=[a-z0-9][a-z0-9.-]*/[-.\w]+", "VARIABLE=secret/key")
]


def _mounted_once(entries: tuple[str, ...]) -> tuple[str, ...]:
    paths = [entry.split(":", 1)[1].rstrip("/") for entry in entries]
    if len(set(paths)) < len(paths):
        raise ValueError("must mount only one claim at each path")
    return entries


# registry:port/repository:tag@digest, the grammar of github.com/distribution/reference.
_IMAGE = re.compile(
    r"([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:\d+)?/)?"
    r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*"
    r"(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)


def check_image(name: str) -> str:
    """Returns the name of a container image; ValueError for one that no node could pull."""
    if not _IMAGE.fullmatch(name):
        raise ValueError("must be written as REGISTRY/NAME:TAG, with the name in lower case")
    return name


# May be empty.
ImageName = Annotated[str, AfterValidator(lambda name: name and check_image(name))]


@dataclass(frozen=True, config=CHECKED)
class Resources(Settings):
    """Resources of one component; None falls back to `all`, and there to the cluster's default.

    Lists are appended to the lists of `all`.
    """

    cpu: float | None = Field(default=None, gt=0)
    """Cores, as request and limit."""
    memory_gb: float | None = Field(default=None, gt=0)
    """10^9 bytes, as request and limit."""
    gpu_count: int | None = Field(default=None, ge=0)
    gpu_type: str | None = None
    """Name of the resource (default nvidia.com/gpu), or on Vertex AI of the accelerator."""
    retries: int | None = Field(default=None, ge=0)
    cache: bool | None = None
    """False runs the component in every run."""
    timeout_s: int | None = Field(default=None, ge=0)
    """0 for none."""
    node_selector: tuple[_Label, ...] = ()
    """`label=value`"""
    tolerations: tuple[_Taint, ...] = ()
    """Taints as kubectl writes them: `nvidia.com/gpu:NoSchedule`."""
    volumes: Annotated[tuple[_Volume, ...], AfterValidator(_mounted_once)] = ()
    """Persistent volume claims and their mount paths: `claim:/path`."""
    secrets: tuple[_Secret, ...] = ()
    """Environment variables from secrets: `VARIABLE=secret/key`."""


def resources_of(component: str, resources: Mapping[str, Resources]) -> Resources:
    """What a component requests: its own entry, completed by `all`.

    Raises:
      DataError: the two conflict.
    """
    own, common = resources.get(component, Resources()), resources.get(ALL, Resources())
    merged = {}
    for name in field_types(Resources):
        mine, others = getattr(own, name), getattr(common, name)
        # An entry given both for `all` and for this component counts once.
        merged[name] = tuple(dict.fromkeys(mine + others)) if isinstance(mine, tuple) else mine
        if mine is None:
            merged[name] = others
    return parse(Resources, merged, lambda _: f"resources.{component}.")

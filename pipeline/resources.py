"""What a component asks of a cluster, each value in one word so that `--set` can express it."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

# The entry of `Config.resources` whose values hold for every component.
ALL = "all"

_FORMS = {
    "node_selector": (r"[^=\s]+=[^=\s]*", "label=value"),
    "tolerations": (
        r"[^=:\s]+(=[^=:\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)",
        "key:Effect or key=value:Effect, as kubectl writes taints",
    ),
    "volumes": (r"[a-z0-9][a-z0-9.-]*:/\S*", "claim:/path"),
    "secrets": (r"[A-Za-z_]\w*=[a-z0-9][a-z0-9.-]*/[-.\w]+", "VARIABLE=secret/key"),
}


@dataclass(frozen=True)
class Resources:
    """Of one component; None leaves it to `all`, and what `all` leaves open to the cluster.

    `cpu` counts cores, `memory_gb` 10^9 bytes; both are request and limit at once. `gpu_type` is
    the resource's name (nvidia.com/gpu if none is given), on Vertex AI the accelerator's.
    `node_selector` holds `label=value`, `tolerations` taints as kubectl writes them
    (`nvidia.com/gpu:NoSchedule`), `volumes` persistent volume claims and where they are mounted
    (`claim:/path`), `secrets` environment variables from secrets (`VARIABLE=secret/key`); these
    lists are added to those of `all`. With `cache` false a component runs in every run. `timeout_s`
    0 means none.
    """

    cpu: float | None = None
    memory_gb: float | None = None
    gpu_count: int | None = None
    gpu_type: str | None = None
    retries: int | None = None
    cache: bool | None = None
    timeout_s: int | None = None
    node_selector: tuple[str, ...] = ()
    tolerations: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("cpu", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: {value} must be above 0")
        for name in ("gpu_count", "retries", "timeout_s"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: {value} must not be negative")
        for name, (form, words) in _FORMS.items():
            for entry in getattr(self, name):
                if not re.fullmatch(form, entry):
                    raise ValueError(f"{name}: {entry!r}: write {words}")


def resources_of(component: str, resources: Mapping[str, Resources]) -> Resources:
    """What a component asks for: its own entry, completed by the one for `all`."""
    own, common = resources.get(component, Resources()), resources.get(ALL, Resources())
    merged = {}
    for field in dataclasses.fields(Resources):
        mine, others = getattr(own, field.name), getattr(common, field.name)
        merged[field.name] = mine + others if isinstance(mine, tuple) else mine
        if mine is None:
            merged[field.name] = others
    return Resources(**merged)

"""The TFX component around `check`."""

import json
import logging

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils, path_utils

from components.artifacts import SERVING_CHECK_FILE
from components.serving_check.check import Limits, check
from data.errors import DataError
from data.record_folder import read_records
from trainer.input_pipeline import list_shards

_log = logging.getLogger("ssd.serving_check")


@component
def ServingCheck(
    model: InputArtifact[standard_artifacts.Model],
    examples: InputArtifact[standard_artifacts.Examples],
    blessing: OutputArtifact[standard_artifacts.InfraBlessing],
    split: Parameter[str],
    check_pictures: Parameter[int],
    max_latency_ms: Parameter[float],
    max_memory_mb: Parameter[float],
    score_tolerance: Parameter[float],
) -> None:
    """Blesses a model that passes the check on a server, like TFX's InfraValidator.

    The Pusher obeys the blessing. serving_check.json next to it has the measurements and the
    reasons why a model is not blessed.
    """
    shards = list_shards([f"{artifact_utils.get_split_uri([examples], split)}/*"])
    records = list(read_records(shards).take(check_pictures).as_numpy_iterator())
    if not records:
        raise DataError(f"{examples.uri}: split {split} has no records to check the model with")
    limits = Limits(max_latency_ms, max_memory_mb, score_tolerance)
    report = check(path_utils.serving_model_path(model.uri), records, limits)
    for problem in report["problems"]:
        _log.warning("  not blessed: %s", problem)
    blessed = not report["problems"]
    _write(blessing, SERVING_CHECK_FILE, json.dumps(report, indent=2) + "\n")
    # What InfraValidator writes, and what the Pusher reads.
    _write(blessing, "INFRA_BLESSED" if blessed else "INFRA_NOT_BLESSED", "")
    blessing.set_int_custom_property("blessed", int(blessed))


def _write(artifact: standard_artifacts.InfraBlessing, name: str, text: str) -> None:
    io_utils.write_string_file(f"{artifact.uri}/{name}", text)

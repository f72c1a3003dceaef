"""Artifacts whose files were deleted, and output folders that were moved.

ML Metadata keeps returning artifacts whose files were deleted, and TFX's cache keys hold absolute
paths. Here an artifact without its files does not exist, and cache keys hold paths relative to the
output folder.
"""

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.orchestration.portable import cache_utils
from tfx.types import Artifact, artifact_utils
from tfx.types.standard_artifacts import Examples, ExampleStatistics, Model
from tfx.utils import path_utils

_log = logging.getLogger("ssd")


def is_there(artifact: Artifact) -> bool:
    """Whether the files of an artifact exist."""
    if isinstance(artifact, Model):
        # A model from the Trainer, or one imported from a pushed version.
        folders = (path_utils.serving_model_path(artifact.uri), artifact.uri)
        return any(fileio.exists(f"{folder}/saved_model.pb") for folder in folders)
    if not fileio.exists(artifact.uri):
        return False
    if isinstance(artifact, Examples | ExampleStatistics):
        splits = artifact_utils.decode_split_names(artifact.split_names)
        parts = [f"{artifact.uri}/Split-{split}" for split in splits]
        return all(fileio.exists(part) and fileio.listdir(part) for part in parts)
    return True


def only_there(artifacts: Mapping[str, Sequence[Artifact]]) -> dict[str, list[Artifact]]:
    """The artifacts whose files exist, by key; logs how many are gone."""
    found = {key: [a for a in several if is_there(a)] for key, several in artifacts.items()}
    gone = {key: len(several) - len(found[key]) for key, several in artifacts.items()}
    if any(gone.values()):
        counts = ", ".join(f"{key} {number}" for key, number in gone.items() if number)
        _log.info("  ignored because their files are gone: %s", counts)
    return found


@contextlib.contextmanager
def portable_cache(output: str) -> Iterator[None]:
    """TFX's cache for an output folder that may move, and whose files may be deleted.

    Args:
      output: the output folder, an absolute path.
    """
    key_of = cache_utils.get_cache_context
    outputs_of = cache_utils.get_cached_outputs
    verify = artifact_utils.verify_artifacts
    gone: list[str] = []

    def get_cache_context(**found: Any) -> metadata_store_pb2.Context:
        inputs = found.get("input_artifacts") or {}
        parameters = found.get("parameters") or {}
        return key_of(
            **{
                **found,
                "input_artifacts": {
                    key: [_portable(artifact, output) for artifact in several]
                    for key, several in inputs.items()
                },
                "parameters": {
                    key: _relative(str(value), output) for key, value in parameters.items()
                },
            }
        )

    def verify_artifacts(artifacts: Mapping[str, Sequence[Artifact]]) -> None:
        """Like TFX's, which checks only that the folder exists."""
        missing = [a.uri for several in artifacts.values() for a in several if not is_there(a)]
        gone.extend(missing)
        if missing:
            raise RuntimeError(f"{missing[0]} is gone")
        verify(artifacts)

    def get_cached_outputs(
        *arguments: Any, **named: Any
    ) -> Mapping[str, Sequence[Artifact]] | None:
        outputs = outputs_of(*arguments, **named)
        if outputs is None and gone:
            _log.info("  runs again because files of an earlier result are gone: %s", gone[0])
        gone.clear()
        return outputs

    with (
        # The launcher has no hook for these.
        mock.patch.object(cache_utils, "get_cache_context", get_cache_context),
        mock.patch.object(cache_utils, "get_cached_outputs", get_cached_outputs),
        mock.patch.object(artifact_utils, "verify_artifacts", verify_artifacts),
    ):
        yield


def _portable(artifact: Artifact, output: str) -> Artifact:
    """An artifact with paths relative to the output folder."""
    result = copy.deepcopy(artifact)
    record = result.mlmd_artifact
    record.uri = _relative(record.uri, output)
    for value in (*record.properties.values(), *record.custom_properties.values()):
        if value.WhichOneof("value") == "string_value":
            value.string_value = _relative(value.string_value, output)
    return result


def _relative(text: str, output: str) -> str:
    return text.replace(f"{output}/", "")

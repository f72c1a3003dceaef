"""Baselines without a resolver: the latest model in the folder of pushed models.

Only blessed models are pushed, so the latest one is the latest blessed model.
"""

import shutil
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_node import BaseNode
from tfx.types import Channel, standard_artifacts
from tfx.types.artifact_utils import encode_split_names
from tfx.utils import path_utils

from components.atomic_push.component import TRAIN_STATISTICS
from data.saved_model import IDENTITY, SAVED_MODEL_FILE
from data.splits import TRAIN
from pipeline.kubeflow.entrypoint import NO_BASELINE


@component
def LatestPushedModel(
    model: OutputArtifact[standard_artifacts.Model],
    model_dir: Parameter[str],
    candidate: InputArtifact[standard_artifacts.Model] = None,
) -> None:
    """Copies the latest version under `model_dir` that is not this run's candidate."""
    own = candidate and Path(path_utils.serving_model_path(candidate.uri), IDENTITY).read_bytes()
    for version in _versions(model_dir):
        if (version / IDENTITY).read_bytes() != own:
            shutil.copytree(version, path_utils.serving_model_dir(model.uri), dirs_exist_ok=True)
            return
    _mark_missing(model.uri, f"no other model has been pushed to {model_dir} yet")


@component
def LatestPushedData(
    statistics: OutputArtifact[standard_artifacts.ExampleStatistics], model_dir: Parameter[str]
) -> None:
    """Copies the training data's statistics of the latest version under `model_dir`."""
    for version in _versions(model_dir):
        source = version / TRAIN_STATISTICS
        if source.is_file():
            folder = Path(statistics.uri, "Split-train")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / "FeatureStats.pb")
            statistics.split_names = encode_split_names([TRAIN])
            return
    _mark_missing(statistics.uri, f"no model in {model_dir} has statistics of its data")


class PushedBaselines:
    """Baselines from the folder of pushed versions."""

    def __init__(self, model_dir: str) -> None:
        self._model_dir = model_dir

    def data(self, statistics: Channel) -> BaseNode:
        """Finds the statistics of the data that the latest pushed model was trained on."""
        del statistics  # needs no exclusion: data compared with itself shows no drift
        return LatestPushedData(model_dir=self._model_dir)

    def model(self, model: Channel) -> BaseNode:
        """Finds the latest pushed model."""
        return LatestPushedModel(candidate=model, model_dir=self._model_dir)

    def base_model(self, custom_config: dict, data: dict) -> BaseNode:
        """Finds the latest pushed model."""
        del custom_config, data  # a repeated training starts from the model that it pushed
        return LatestPushedModel(model_dir=self._model_dir)


def _versions(model_dir: str) -> list[Path]:
    """Folders of complete versions, newest first."""
    found = [path for path in Path(model_dir).glob("[0-9]*") if path.name.isdigit()]
    return sorted(
        (path for path in found if (path / SAVED_MODEL_FILE).is_file()),
        key=lambda path: int(path.name),
        reverse=True,
    )


def _mark_missing(uri: str, why: str) -> None:
    Path(uri).mkdir(parents=True, exist_ok=True)
    Path(uri, NO_BASELINE).write_text(why + "\n", encoding="utf-8")

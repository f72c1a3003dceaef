"""TFX's Pusher, copying with `push` and adding the model card to the model."""

from typing import Any

from tfx.components.pusher import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.dsl.io import fileio
from tfx.proto import pusher_pb2
from tfx.types import (
    Artifact,
    artifact_utils,
    channel,
    standard_artifacts,
    standard_component_specs,
)
from tfx.types.component_spec import ChannelParameter
from tfx.utils import io_utils, proto_utils

from components.artifacts import ModelCardFolder
from components.atomic_push.push import copy_model, push
from data.splits import TRAIN

CARD_KEY = "card"
STATISTICS_KEY = "statistics"
# Travels with the model, so that later data can be compared with its training data.
TRAIN_STATISTICS = "assets.extra/train_statistics.pb"


class Executor(executor.Executor):
    """Pushes a blessed model completely or not at all, with the same metadata as TFX's."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See TFX's Pusher. Raises DataError if the model cannot be pushed."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed_model = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.PUSHED_MODEL_KEY]
        )
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed_model)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(
            exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination
        )
        base = destination.filesystem.base_directory
        model = self.GetModelPath(input_dict)
        # The pipeline's own copy comes first: servers see the version only once nothing can fail.
        copy_model(model, pushed_model.uri)
        if input_dict.get(CARD_KEY):
            card = artifact_utils.get_single_uri(input_dict[CARD_KEY])
            for name in fileio.listdir(card):
                target = f"{pushed_model.uri}/assets.extra/{name}"
                io_utils.copy_file(f"{card}/{name}", target, overwrite=True)
        if input_dict.get(STATISTICS_KEY):
            train = artifact_utils.get_split_uri(input_dict[STATISTICS_KEY], TRAIN)
            target = f"{pushed_model.uri}/{TRAIN_STATISTICS}"
            io_utils.copy_file(f"{train}/FeatureStats.pb", target, overwrite=True)
        version = push(pushed_model.uri, base)
        self._MarkPushed(
            pushed_model,
            pushed_destination=f"{base}/{version}",
            pushed_version=str(version),
        )


class PusherSpec(standard_component_specs.PusherSpec):
    """TFX's spec plus a model card and the data's statistics as optional inputs."""

    INPUTS = {
        **standard_component_specs.PusherSpec.INPUTS,
        CARD_KEY: ChannelParameter(type=ModelCardFolder, optional=True),
        STATISTICS_KEY: ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
    }


class Pusher(base_component.BaseComponent):
    """Same inputs and outputs as TFX's Pusher; card and statistics go into `assets.extra`."""

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: channel.BaseChannel,
        push_destination: pusher_pb2.PushDestination,
        model_blessing: channel.BaseChannel | None = None,
        infra_blessing: channel.BaseChannel | None = None,
        card: channel.BaseChannel | None = None,
        statistics: channel.BaseChannel | None = None,
    ) -> None:
        spec = PusherSpec(
            model=model,
            model_blessing=model_blessing,
            infra_blessing=infra_blessing,
            card=card,
            statistics=statistics,
            push_destination=push_destination,
            custom_config="null",
            pushed_model=channel.Channel(type=standard_artifacts.PushedModel),
        )
        super().__init__(spec=spec)

"""TFX's Pusher with `push` in place of its copying; all else is TFX's."""

from tfx.components.pusher import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils, proto_utils

from components.atomic_push.push import push


class Executor(executor.Executor):
    """Pushes a blessed model whole or not at all, and tells ML Metadata what TFX's would."""

    def Do(self, input_dict, output_dict, exec_properties):
        """See TFX's Pusher. Raises DataError where the model cannot be pushed."""
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
        # The pipeline's own copy comes first: servers see the version when nothing can fail any
        # more.
        io_utils.copy_dir(model, pushed_model.uri)
        version = push(model, base)
        self._MarkPushed(
            pushed_model,
            pushed_destination=f"{base.rstrip('/')}/{version}",
            pushed_version=str(version),
        )


class Pusher(component.Pusher):
    """Takes and gives what TFX's Pusher does."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

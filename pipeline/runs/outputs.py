"""What the components of a running pipeline have made so far."""

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable.mlmd import execution_lib

_SUCCESSFUL = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)


def latest_outputs(metadata_handle, pipeline_name: str, component: str) -> dict[str, list]:
    """Output artifacts of a component's latest successful execution, by output name.

    Args:
      metadata_handle: a `tfx.orchestration.metadata.Metadata`, entered.

    Returns:
      TFX artifacts; empty if the component never succeeded.
    """
    latest = latest_success(metadata_handle, pipeline_name, component)
    if latest is None:
        return {}
    return dict(execution_lib.get_output_artifacts(metadata_handle, latest))


def latest_success(metadata_handle, pipeline_name: str, component: str) -> int | None:
    """The id of a component's latest successful execution; None if it never succeeded."""
    store = metadata_handle.store
    node = store.get_context_by_type_and_name("node", f"{pipeline_name}.{component}")
    if node is None:
        return None
    executions = store.get_executions_by_context(node.id)
    return max((e.id for e in executions if e.last_known_state in _SUCCESSFUL), default=None)

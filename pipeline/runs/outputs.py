"""The outputs of a run's components, for a running pipeline."""

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.metadata import Metadata
from tfx.orchestration.portable.mlmd import execution_lib
from tfx.types import Artifact

_SUCCESSFUL = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)


def run_outputs(
    metadata_handle: Metadata, pipeline: str, run: str, component: str
) -> dict[str, list[Artifact]]:
    """Output artifacts of a component in one run, by output name.

    The latest outputs may not be this run's: others may write to the same metadata meanwhile.

    Args:
      metadata_handle: a `tfx.orchestration.metadata.Metadata`, entered.
      pipeline: name of the pipeline.
      run: TFX's id of the run.

    Returns:
      TFX artifacts; empty if the component has not succeeded in this run.
    """
    store = metadata_handle.store
    executions = [
        {
            e.id
            for e in store.get_executions_by_context(context.id)
            if e.last_known_state in _SUCCESSFUL
        }
        for kind, name in (("pipeline_run", run), ("node", f"{pipeline}.{component}"))
        if (context := store.get_context_by_type_and_name(kind, name))
    ]
    both = set.intersection(*executions) if len(executions) == 2 else set()
    return dict(execution_lib.get_output_artifacts(metadata_handle, max(both))) if both else {}

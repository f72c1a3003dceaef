"""Writes runs into ML Metadata as TFX does, without running anything."""

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd


class Recorder:
    """Writes runs the way TFX does: contexts for run and node, executions, artifacts, events."""

    def __init__(self, folder, config=None):
        """config: of the store, by default an SQLite file in the folder."""
        self.folder = folder
        if config is None:
            config = mlmd.ConnectionConfig()
            config.sqlite.filename_uri = str(folder / "metadata.sqlite")
            config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        self.store = metadata_store.MetadataStore(config)
        self.contexts = {
            name: self.store.put_context_type(mlmd.ContextType(name=name))
            for name in ("pipeline_run", "node")
        }
        self.nodes = {}

    def run(self, run, **properties):
        context = mlmd.Context(type_id=self.contexts["pipeline_run"], name=run)
        _set(context.custom_properties, properties)
        (self.current,) = self.store.put_contexts([context])

    def artifact(self, kind, uri, **properties):
        type_id = self.store.put_artifact_type(mlmd.ArtifactType(name=kind))
        artifact = mlmd.Artifact(type_id=type_id, uri=str(uri))
        _set(artifact.custom_properties, properties)
        (identity,) = self.store.put_artifacts([artifact])
        return identity

    def step(
        self,
        component,
        inputs=(),
        outputs=(),
        state=mlmd.Execution.COMPLETE,
        pipeline="ssd-tiny",
        kind="Component",
        **parameters,
    ):
        """inputs, outputs: artifact ids by key."""
        name = f"{pipeline}.{component}"
        if name not in self.nodes:
            node = mlmd.Context(type_id=self.contexts["node"], name=name)
            (self.nodes[name],) = self.store.put_contexts([node])
        type_id = self.store.put_execution_type(mlmd.ExecutionType(name=f"x.{kind}"))
        execution = mlmd.Execution(type_id=type_id, last_known_state=state)
        _set(execution.custom_properties, parameters)
        (identity,) = self.store.put_executions([execution])
        both = [mlmd.Association(execution_id=identity, context_id=c)
                for c in (self.current, self.nodes[name])]  # fmt: skip
        self.store.put_attributions_and_associations([], both)
        for kind, side in ((mlmd.Event.INPUT, inputs), (mlmd.Event.OUTPUT, outputs)):
            for key, artifact in dict(side).items():
                event = mlmd.Event(execution_id=identity, artifact_id=artifact, type=kind)
                event.path.steps.add(key=key)
                event.path.steps.add(index=0)
                self.store.put_events([event])


def _set(properties, values):
    for name, value in values.items():
        kind = {int: "int_value", float: "double_value", str: "string_value"}[type(value)]
        setattr(properties[name], kind, value)

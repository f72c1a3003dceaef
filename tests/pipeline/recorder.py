"""Writes runs into ML Metadata as TFX does, without running anything."""

import json

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd


class Recorder:
    """Writes runs the way TFX does: contexts for run and node, executions, artifacts, events."""

    def __init__(self, folder, config=None):
        """config: connection of the store, by default an SQLite file in the folder."""
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


def record_run(recorder, name, ap, fingerprint, steps, version):
    recorder.run(name)
    folder = recorder.folder / name
    folder.mkdir()
    (folder / "facts.json").write_text(json.dumps(run_facts(ap, fingerprint, steps)))
    examples = recorder.artifact("Examples", folder / "examples", span=3, version=1)
    recorder.step("ImportExampleGen", (), {"examples": examples}, input_base="/records")
    model = recorder.artifact("Model", folder / "model")
    training = {"preset": "tiny", "trainer": {"steps": steps}}
    recorder.step(
        "Trainer",
        {"examples": examples},
        {"model": model},
        custom_config=json.dumps(training),
        code_version=f"code{steps}",
    )
    blessing = recorder.artifact("ModelBlessing", folder / "blessing", blessed=int(ap >= 0.7))
    recorder.step(
        "Evaluator",
        {"model": model},
        {"blessing": blessing},
        eval_config=json.dumps({"metrics_specs": [{"metrics": [{"class_name": "M"}]}]}),
        code_version="metric1",
    )
    card = recorder.artifact("ModelCardFolder", folder, mAP=ap)
    recorder.step("ModelCard", {"model": model}, {"card": card})
    properties = {"pushed": 0}
    if version:
        where = str(recorder.folder / "serving" / version)
        properties = {"pushed": 1, "pushed_version": version, "pushed_destination": where}
    pushed = recorder.artifact("PushedModel", folder / "pushed", **properties)
    recorder.step("Pusher", {"model": model}, {"pushed_model": pushed})


def run_facts(ap, fingerprint, steps):
    score = {"value": ap, "low": None, "high": None, "baseline": None, "change": None}
    bound = {"metric": "mAP", "slice": "", "bound": "≥ 0.7", "measured": ap, "ok": ap >= 0.7}
    return {
        "blessed": ap >= 0.7,
        "evaluation": {
            "map": score,
            "classes": [{"name": "cat", "ap": score}],
            "thresholds": [bound | {"why": ""}],
            "baseline_model": None,
        },
        "model": {
            "trainer": {"steps": steps, "backbone_weights": "vgg.h5"},
            "base_model": "/serving/1",
            "starting_weights_sha256": "0123456789abcdef",
            "exported": {"step": steps - 1, "eval_map": ap},
        },
        "origin": {"name": "pets", "left_out": "1 of 9 pictures: the picture is damaged (1)"},
        "training": {"checkpoint": f"step-{steps}.npz"},
        "data": {"splits": {"train": {"pictures": 9, "objects": 12, "left_out": ["0007"]}}},
        "fingerprints": {"train": fingerprint},
        "packages": {"tfx": "1.16.0"},
    }

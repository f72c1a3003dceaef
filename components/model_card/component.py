"""The TFX component around `gather_facts` and `write_model_card`."""

import tempfile
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils, path_utils

from components.artifacts import DataGateReport, ModelCardFolder
from components.model_card.card import write_model_card
from components.model_card.facts import gather_facts

# Custom properties of the artifact, for listing runs without opening files.
MAP_PROPERTY = "mAP"
BLESSED_PROPERTY = "blessed"


@component
def ModelCard(
    examples: InputArtifact[standard_artifacts.Examples],
    model: InputArtifact[standard_artifacts.Model],
    model_run: InputArtifact[standard_artifacts.ModelRun],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    gate: InputArtifact[DataGateReport],
    card: OutputArtifact[ModelCardFolder],
) -> None:
    """Writes what the users of a model should know about it."""
    facts = gather_facts(
        examples=examples.uri,
        model=path_utils.serving_model_path(model.uri),
        model_run=model_run.uri,
        evaluation=evaluation.uri,
        blessing=blessing.uri,
        gate=gate.uri,
        splits={
            split: artifact_utils.get_split_uri([examples], split)
            for split in artifact_utils.decode_split_names(examples.split_names)
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        write_model_card(facts, Path(folder))
        io_utils.copy_dir(folder, card.uri)
    card.set_int_custom_property(BLESSED_PROPERTY, int(facts["blessed"]))
    mean = facts["evaluation"]["map"]["value"]
    if mean is not None:
        card.set_float_custom_property(MAP_PROPERTY, mean)

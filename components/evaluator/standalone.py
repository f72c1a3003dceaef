"""The Evaluator outside a pipeline: any exported model on any records."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format
from tensorflow_model_analysis.proto import config_pb2
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import artifact_utils, standard_artifacts
from tfx.types import standard_component_specs as specs

from components.evaluator.answers import marks_kept_in
from components.evaluator.component import Executor
from components.mean_average_precision import picture_slices
from data.beam_runner import IN_PROCESS
from serving.version_folders import newest_version

_SPLIT = "evaluated"


def model_folder(path: Path) -> Path:
    """A SavedModel's folder: the path itself or its highest version; DataError without one."""
    return newest_version(path)


def evaluate_model(
    model: Path,
    records: Sequence[Path],
    config: config_pb2.EvalConfig,
    output: Path,
    *,
    baseline: Path | None = None,
    marks: Path | None = None,
    beam_args: Sequence[str] = IN_PROCESS,
) -> None:
    """Writes to `output` what a pipeline's Evaluator would for the same model and records.

    Args:
      model, baseline: folders of SavedModels.
      records: TFRecord files, either all compressed or none.
      output: folder of the evaluation; created here.
      marks: folder for progress marks of the stage `answers.STAGE`.

    Raises:
      DataError: the metric cannot read a record or an answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # TFX expects artifacts in folders with its own layout.
        split = place / "examples" / f"Split-{_SPLIT}"
        split.mkdir(parents=True)
        for number, file in enumerate(records):
            (split / f"{number:05d}-{file.name}").symlink_to(file.resolve())
        examples = standard_artifacts.Examples()
        examples.uri = str(place / "examples")
        examples.split_names = artifact_utils.encode_split_names([_SPLIT])
        evaluation = standard_artifacts.ModelEvaluation()
        evaluation.uri = str(output)
        blessing = standard_artifacts.ModelBlessing()
        blessing.uri = str(place / "blessing")
        inputs = {specs.EXAMPLES_KEY: [examples], specs.MODEL_KEY: [_model(place, "model", model)]}
        if baseline:
            inputs[specs.BASELINE_MODEL_KEY] = [_model(place, "baseline", baseline)]
        context = BaseBeamExecutor.Context(
            beam_pipeline_args=list(beam_args), tmp_dir=str(place / "temporary"), unique_id="1"
        )
        outputs = {specs.EVALUATION_KEY: [evaluation], specs.BLESSING_KEY: [blessing]}
        properties = {
            specs.EVAL_CONFIG_KEY: json_format.MessageToJson(
                config, preserving_proto_field_name=True
            ),
            specs.EXAMPLE_SPLITS_KEY: json.dumps([_SPLIT]),
            specs.MODULE_PATH_KEY: picture_slices.__name__,
        }
        with marks_kept_in(marks):
            Executor(context).Do(inputs, outputs, properties)


def _model(place: Path, name: str, folder: Path) -> standard_artifacts.Model:
    model = standard_artifacts.Model()
    model.uri = str(place / name)
    (place / name).mkdir()
    (place / name / "Format-Serving").symlink_to(folder.resolve())
    return model

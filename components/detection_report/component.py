"""The TFX component around `build_report`."""

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils

from components.artifacts import REPORT_FILE, DetectionReportFile, ModelCardFolder
from components.detection_report.report import Sources, build_report


@component
def DetectionReport(
    card: InputArtifact[ModelCardFolder],
    model: InputArtifact[standard_artifacts.Model],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    model_run: InputArtifact[standard_artifacts.ModelRun],
    examples: InputArtifact[standard_artifacts.Examples],
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    infra_blessing: InputArtifact[standard_artifacts.InfraBlessing],
    pushed_model: InputArtifact[standard_artifacts.PushedModel],
    report: OutputArtifact[DetectionReportFile],
    split: Parameter[str],
) -> None:
    """Writes the report of a run."""
    inputs = (
        card,
        model,
        evaluation,
        model_run,
        examples,
        statistics,
        infra_blessing,
        pushed_model,
    )
    sources = Sources(
        card=card.uri,
        evaluation=evaluation.uri,
        model_run=model_run.uri,
        examples=artifact_utils.get_split_uri([examples], split),
        statistics=statistics.uri,
        infra_blessing=infra_blessing.uri,
        pushed=pushed_destination(pushed_model),
        artifacts={f"{item.type_name} {item.id}": item.uri for item in inputs},
    )
    html = build_report(sources)
    io_utils.write_string_file(f"{report.uri}/{REPORT_FILE}", html)


def pushed_destination(pushed_model: standard_artifacts.PushedModel) -> str | None:
    """Where the Pusher put the version; None if nothing was pushed."""
    if not pushed_model.get_int_custom_property("pushed"):
        return None
    return pushed_model.get_string_custom_property("pushed_destination")

"""A run on this machine: prepares the data, runs the components in order, reports the outcome."""

import dataclasses
import datetime
import logging
import math
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from rich.console import Console
from rich.table import Table
from tfx.components.evaluator.constants import ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata
from tfx.orchestration.pipeline import Pipeline, RunOptions
from tfx.utils import path_utils

from components.artifacts import ORIGIN_FILE, REPORT_FILE, read_json
from components.evaluation import OVERALL, Evaluation, Score
from components.mean_average_precision import metric_names
from data.beam_runner import IN_PROCESS
from data.errors import DataError, did_you_mean
from data.fields import COMMON
from data.paths import check_no_wildcard
from data.saved_model import IDENTITY
from data.schema import class_names, read_schema
from data.settings_file import write_settings
from data.splits import TEST
from pipeline.config import FIND_SCHEMA, Config
from pipeline.inputs import keep_schema, prepare, schema_path
from pipeline.pipeline import Inputs, create_pipeline
from pipeline.progress import evaluation_of, is_blessed, pushed_version, run_with_progress
from pipeline.runs.home import METADATA, PIPELINE, relocate, run_file
from pipeline.runs.store import DATA, NAME, Run, check_sound, runs_of
from trainer import devices, reporting
from trainer.config import LATEST, NO_WEIGHTS
from trainer.detector import build_network, detector_spec
from trainer.weights import check_weights
from trainer.weights.saved_model import check_base_model

_log = logging.getLogger("ssd")


def run(
    config: Config,
    *,
    from_component: str | None = None,
    enable_cache: bool = True,
    beam_args: Sequence[str] = IN_PROCESS,
    name: str | None = None,
) -> Path | None:
    """Runs the pipeline; artifacts, metadata and pushed models go under `config.output`.

    Args:
      config: with absolute paths (`pipeline.config.with_places`).
      beam_args: from `data.beam_runner.beam_arguments`, for all Beam work.
      name: the run's name in `ssd runs`; by default the data set and the preset.

    Returns:
      The report of the run; None if only a schema was inferred.

    Raises:
      DataError: bad input, no weights to start from, or data that the gate rejects.
    """
    _check_training(config)
    data, output = config.data.root, Path(config.output)
    check_no_wildcard(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {output}: cannot write there ({error.strerror})") from error
    _open_metadata(output)
    inputs = prepare(config, data, output, beam_args)
    if inputs.schema_path is not None:
        kept = keep_schema(inputs.schema_path, output)
        inputs = dataclasses.replace(inputs, schema_path=kept)
    pipeline = create_pipeline(
        config,
        inputs,
        name=f"ssd-{config.preset}",
        root=str(output / PIPELINE),
        serving_dir=str(output / "serving"),
        work_dir=str(output / "unfinished"),
        # With --from the component must run, not come from the cache.
        enable_cache=enable_cache and not from_component,
        metadata_connection_config=metadata.sqlite_metadata_connection_config(
            str(output / METADATA)
        ),
        beam_args=beam_args,
    )
    options = _partial_run(pipeline, from_component) if from_component else None
    known = {NAME: name or _default_name(config, data)}
    if data:
        known[DATA] = str(data)
    run = datetime.datetime.now().isoformat()
    file = run_file(output, run)
    write_settings(file, config)
    with mock.patch.dict(os.environ, reporting.environment(config.trainer)):
        outputs = run_with_progress(pipeline, options, run=run, output=output, known=known)
    path = None
    if "Evaluator" in outputs:
        _print_outcome(config, inputs, outputs)
        (report,) = outputs["DetectionReport"]["report"]
        path = Path(report.uri) / REPORT_FILE
        _log.info("report:  %s", _from_here(path))
    if "SchemaGen" in outputs:
        (schema,) = outputs["SchemaGen"]["schema"]
        _log.info(
            "\nReview the inferred schema, then run with --set data.schema=%s/schema.pbtxt",
            schema.uri,
        )
    _log.info("config:  %s", _from_here(file))
    return path


def _open_metadata(output: Path) -> None:
    """Checks that the metadata can be read, and updates its paths if the output folder has moved.

    Raises:
      DataError: the file is damaged.
    """
    file = output / METADATA
    if not file.exists():
        return
    check_sound(file)
    move = relocate(file)
    if move:
        _log.info(
            "the output folder was moved from %s to %s; earlier results are found there",
            *dataclasses.astuple(move),
        )


def _default_name(config: Config, data: Path | None) -> str:
    """The data set and the preset."""
    return f"{data.name} {config.preset}" if data else config.preset


def _check_training(config: Config) -> None:
    """Raises DataError for what would otherwise fail only when the Trainer starts."""
    # The Tuner always trains in this process.
    if config.training_job.workers == 0 or config.tuner.enabled:
        if (workers := devices.cluster_size()) > 1:
            raise DataError(
                f"TF_CONFIG: names {workers} workers, but a pipeline runs in one process. Unset "
                "it, or train on each host with ssd worker --config FILE"
            )
        devices.check_fit(config.trainer, devices.choose_strategy())
    spec = detector_spec(config.trainer)
    if config.trainer.backbone_weights != NO_WEIGHTS:
        # HiKapok's records use another VOC schema, but with the same classes.
        path = None if config.data.schema == FIND_SCHEMA else schema_path(config, COMMON)
        classes = () if path is None else class_names(read_schema(path))
        network = build_network(spec, len(classes) or 1)
        check_weights(network, spec, classes, config.trainer.backbone_weights)
    if config.trainer.warm_start not in ("", LATEST):
        check_base_model(config.trainer.warm_start, config.trainer)


def _partial_run(pipeline: Pipeline, from_component: str) -> RunOptions:
    known = [component.id for component in pipeline.components]
    if from_component not in known:
        hint = did_you_mean(from_component, known)
        raise DataError(f"--from {from_component}: unknown component; {hint}")
    again = {from_component}
    for component in pipeline.components:
        if again.intersection(node.id for node in component.upstream_nodes):
            again.add(component.id)
    # A resolver may find something newer than in the earlier run.
    resolvers = {
        component.id
        for component in pipeline.components
        if isinstance(component, Resolver)
        and again.intersection(node.id for node in component.downstream_nodes)
    }
    reused = [component for component in known if component not in again | resolvers]
    name = pipeline.pipeline_info.pipeline_name
    base = _latest_with(reused, [run for run in _earlier_runs(pipeline) if run.pipeline == name])
    if base is None and reused:
        raise DataError(
            f"--from {from_component}: no earlier run in this --output has finished everything "
            f"before it: {', '.join(reused)}. Run without --from"
        )
    return RunOptions(
        from_nodes=[from_component, *sorted(resolvers)],
        base_pipeline_run_id=base.id if base else None,
    )


def _earlier_runs(pipeline: Pipeline) -> list[Run]:
    file = Path(pipeline.metadata_connection_config.sqlite.filename_uri)
    return runs_of(file.parent) if file.exists() else []


def _latest_with(components: Sequence[str], runs: Sequence[Run]) -> Run | None:
    """The newest run that finished all these components and still has their results."""

    def has(run: Run, component: str) -> bool:
        step = run.step(component)
        return (
            step is not None
            and step.state in ("complete", "cached")
            and all(Path(a.uri).exists() for several in step.outputs.values() for a in several)
        )

    return next((run for run in reversed(runs) if all(has(run, name) for name in components)), None)


def _print_outcome(config: Config, inputs: Inputs, outputs: dict) -> None:
    """Prints the table of AP per class, the verdict, and how to try the model."""
    evaluation = evaluation_of(outputs["Evaluator"])
    scores = evaluation.candidate[OVERALL]
    (examples,) = outputs["ImportExampleGen"]["examples"]
    data_set = read_json(f"{examples.uri}/{ORIGIN_FILE}")["name"]
    table = Table(title=f"AP on {data_set}, {TEST} (11-point, IoU > 0.5)")
    table.add_column("class")
    table.add_column("AP", justify="right")
    table.add_column("95 % interval", justify="right")
    for name in inputs.classes:
        table.add_row(name, *_cells(scores[metric_names.ap_name(name)]))
    table.add_section()
    table.add_row("mAP", *_cells(scores[metric_names.MAP]))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(_change(evaluation))
    if evaluation.changes and (note := _other_classes(outputs["Evaluator"], inputs.classes)):
        console.print(note)
    if is_blessed(outputs["Evaluator"]):
        console.print("blessed: yes")
        if not config.evaluator.min_map:
            console.print(_how_to_bound(scores[metric_names.MAP]))
    else:
        console.print("blessed: no")
        for failure in evaluation.failures:
            console.print(f"  {failure}")
    pushed = pushed_version(outputs["Pusher"])
    if not pushed:
        console.print("pushed:  no")
        return
    console.print(f"pushed:  {_from_here(Path(pushed))}")
    picture = _from_here(inputs.picture) if inputs.picture else "IMAGE"
    model = _from_here(Path(pushed).parent)
    words = [*_predict_command(), picture, "--model", model]
    console.print(f"try it:  {shlex.join(map(str, words))}", markup=False)


def _cells(score: Score) -> tuple[str, str]:
    # A class without an object in the split has no AP.
    value = "-" if math.isnan(score.value) else f"{score.value:.4f}"
    if math.isnan(score.lower):
        return value, ""
    score = score.clipped()
    return value, f"{score.lower:.4f} - {score.upper:.4f}"


def _how_to_bound(score: Score) -> str:
    """The setting that refuses models worse than this one."""
    expected = score.value if math.isnan(score.lower) else score.lower
    least = math.floor(100 * max(expected, 0)) / 100
    how = f"; to refuse worse models, --set evaluator.min_map={least:.2f}" if least else ""
    return f"bound:   none{how}"


def _change(evaluation: Evaluation) -> str:
    """The result of the comparison with the latest blessed model."""
    if not evaluation.changes:
        return "change:  not judged, there is no blessed model yet"
    change = evaluation.changes[OVERALL][metric_names.MAP]
    text = f"change:  {change.value:+.4f} mAP against the latest blessed model"
    if math.isnan(change.lower):
        return text
    text += f", 95 % interval {change.lower:+.4f} to {change.upper:+.4f}"
    counted = evaluation.changes[OVERALL][metric_names.SIGNIFICANT]
    return text if counted.value else f"{text}: not significant, treated as 0"


def _other_classes(outputs: dict, classes: Sequence[str]) -> str:
    """A note on classes that only one of the two compared models knows; "" if there are none."""
    (blessing,) = outputs["blessing"]
    baseline = blessing.get_string_custom_property(ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY)
    known = read_json(f"{path_utils.serving_model_path(baseline)}/{IDENTITY}")["classes"]
    new = [name for name in classes if name not in known]
    gone = [name for name in known if name not in classes]
    notes = [f"it was not trained for {', '.join(new)} and finds none"] if new else []
    notes += [f"its detections of {', '.join(gone)} are ignored"] if gone else []
    return f"         {'; '.join(notes)}" if notes else ""


def _from_here(path: Path) -> Path:
    """A path relative to the current folder if it is below, otherwise unchanged."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _predict_command() -> list[str]:
    """The words to type for `ssd predict` here, even if this environment is not on the PATH."""
    python = Path(sys.executable)
    script = python.with_name("ssd")
    # `ssd.py` sets argv[0].
    if sys.argv[0].split()[:1] != ["ssd"] or not script.exists():
        return [str(_from_here(python)), "-m", "serving.predict"]
    found = shutil.which("ssd")
    return ["ssd" if found and Path(found) == script else str(_from_here(script)), "predict"]

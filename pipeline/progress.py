"""Progress of a local run: for each component a line when it starts, and a line with its result."""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from ml_metadata.metadata_store import MetadataStore
from tfx.dsl.compiler import constants
from tfx.orchestration import metadata
from tfx.orchestration.local import local_dag_runner
from tfx.orchestration.pipeline import Pipeline, RunOptions
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.orchestration.portable.data_types import ExecutionInfo
from tfx.proto.orchestration import pipeline_pb2
from tfx.proto.orchestration.execution_result_pb2 import ExecutorOutput

from components.artifacts import DATA_GATE_FILE, SERVING_CHECK_FILE, read_json
from components.data_gate.gate import WARNING, Finding, lines_of
from components.evaluation import OVERALL, Evaluation, read_evaluation
from components.mean_average_precision import metric_names
from data.problems import counted
from pipeline.artifact_files import portable_cache
from pipeline.pipeline import BASE_MODEL, BASELINE, BASELINE_DATA
from pipeline.runs.liveness import marked_as_running
from pipeline.runs.outputs import run_outputs
from pipeline.runs.store import FINISHED
from trainer.files import SUMMARY

_log = logging.getLogger("ssd")


def run_with_progress(
    pipeline: Pipeline,
    run_options: RunOptions | None = None,
    *,
    run: str,
    output: Path,
    known: Mapping[str, str],
) -> dict[str, dict[str, list]]:
    """Runs a pipeline with the LocalDagRunner and logs its progress.

    Every line is about this run, even if other runs use the same output folder at the same time.

    Args:
      run: the run's id in ML Metadata.
      output: the output folder, an absolute path.
      known: properties of the run to store, by `NAME` and `DATA` of `pipeline.runs.store`.

    Returns:
      The output artifacts of every component by output name, including those that a partial run
      reused.
    """
    name = pipeline.pipeline_info.pipeline_name

    class ReportingLauncher(launcher.Launcher):
        """TFX's launcher for one component, with a line before and after."""

        def launch(self) -> ExecutionInfo | None:
            node = self._pipeline_node.node_info.id
            self.executed = False
            _log.info("%s ...", node)
            started = time.perf_counter()
            try:
                execution = super().launch()
            except BaseException as error:
                what = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                _log.info("%s %s after %.1f s", node, what, time.perf_counter() - started)
                raise
            finally:
                with self._mlmd_connection as handle:
                    _describe_run(handle.store, run, {**known, FINISHED: 0})
            seconds = time.perf_counter() - started
            if node == BASELINE:
                state, text = "done", _baseline(execution)
            elif node == BASELINE_DATA:
                state, text = "done", _baseline_data(execution)
            elif node == BASE_MODEL:
                state, text = "done", _base_model(execution)
            else:
                state = "done" if self.executed else "cached"
                with self._mlmd_connection as handle:
                    text = _describe(node, run_outputs(handle, name, run, node))
            _log.info("%s %s in %.1f s%s", node, state, seconds, text and f": {text}")
            return execution

        def _run_executor(self, execution_info: ExecutionInfo) -> ExecutorOutput:
            self.executed = True
            return super()._run_executor(execution_info)

    with (
        # The runner has no hook for this, but refers to the launcher only once.
        mock.patch.object(local_dag_runner.launcher, "Launcher", ReportingLauncher),
        # Executors pass the command line on to Beam, which does not know our options.
        mock.patch.object(sys, "argv", sys.argv[:1]),
        portable_cache(str(output)),
        marked_as_running(output, run),
    ):
        _Runner(run).run(pipeline, run_options=run_options)
        with metadata.Metadata(pipeline.metadata_connection_config) as handle:
            _describe_run(handle.store, run, {**known, FINISHED: 1})
            return {c.id: run_outputs(handle, name, run, c.id) for c in pipeline.components}


class _Runner(local_dag_runner.LocalDagRunner):
    """TFX's runner with a run id chosen in advance."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def run_with_ir(
        self, pipeline: pipeline_pb2.Pipeline, run_options: pipeline_pb2.RunOptions | None = None
    ) -> None:
        runtime_parameter_utils.substitute_runtime_parameter(
            pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: self._run}
        )
        super().run_with_ir(pipeline, run_options)


def _describe_run(store: MetadataStore, run: str, known: Mapping[str, str | int]) -> None:
    """Sets properties of a run's context, which TFX registers with the first component."""
    context = store.get_context_by_type_and_name(constants.PIPELINE_RUN_CONTEXT_TYPE_NAME, run)
    if context is None:
        return
    for name, value in known.items():
        kind = "int_value" if isinstance(value, int) else "string_value"
        setattr(context.custom_properties[name], kind, value)
    store.put_contexts([context])


def _describe(node: str, outputs: dict) -> str:
    """A short description of a component's result; empty if there is nothing to report."""
    describe = _DESCRIPTIONS.get(node)
    return describe(outputs) if describe else ""


def _gate(outputs: dict) -> str:
    report = read_json(f"{_path(outputs, 'report')}/{DATA_GATE_FILE}")
    findings = [Finding(**finding) for finding in report["findings"]]
    warnings = [finding for finding in findings if finding.level == WARNING]
    errors = len(findings) - len(warnings)
    lines = [f"{counted(errors, 'error')}, {counted(len(warnings), 'warning')}"]
    for split, counts in report["splits"].items():
        per_class = " ".join(f"{name}={n}" for name, n in counts["objects_per_class"].items())
        pictures, objects = (
            counted(counts["pictures"], "picture"),
            counted(counts["objects"], "object"),
        )
        lines.append(f"  {split}: {pictures}, {objects}: {per_class}")
    return "\n".join(lines + [f"  warning: {line}" for line in lines_of(warnings)])


def _training(outputs: dict) -> str:
    summary = read_json(f"{_path(outputs, 'model_run')}/{SUMMARY}")
    losses = summary["losses"]
    text = f"{summary['trainer']['steps']} steps"
    text += f", loss {losses['total']:.3f}" if losses else ""
    chosen = summary["exported"]
    if chosen["eval_map"] is not None:
        text += f", exported step {chosen['step']} with mAP {chosen['eval_map']:.4f} on eval"
    return text


def _baseline(execution: ExecutionInfo | None) -> str:
    models = (execution.output_dict or {}).get("model") if execution else None
    return f"baseline {models[0].uri}" if models else "no blessed model yet, so no baseline"


def _baseline_data(execution: ExecutionInfo | None) -> str:
    found = (execution.output_dict or {}).get("statistics") if execution else None
    return f"baseline {found[0].uri}" if found else "no blessed model from other data"


def _base_model(execution: ExecutionInfo | None) -> str:
    outputs = (execution.output_dict or {}) if execution else {}
    models = outputs.get("model") or outputs.get("result")
    return f"start from {models[0].uri}" if models else "no blessed model yet to start from"


def _evaluation(outputs: dict) -> str:
    score = evaluation_of(outputs).candidate[OVERALL][metric_names.MAP]
    verdict = "blessed" if is_blessed(outputs) else "not blessed"
    return f"mAP {score.value:.4f}, {verdict}"


def _serving_check(outputs: dict) -> str:
    report = read_json(f"{_path(outputs, 'blessing')}/{SERVING_CHECK_FILE}")
    measured = "no answer"
    if "equal" in report:
        measured = (
            f"{report['equal']} of {report['pictures']} pictures equal, "
            f"p99 {report['p99_ms']:.0f} ms, {report['memory_mb']} MB"
        )
    return f"{measured}, {'not blessed' if report['problems'] else 'blessed'}"


def _push(outputs: dict) -> str:
    pushed = pushed_version(outputs)
    return f"pushed {pushed}" if pushed else "nothing pushed"


_DESCRIPTIONS = {
    "DataGate": _gate,
    "Trainer": _training,
    "Evaluator": _evaluation,
    "ServingCheck": _serving_check,
    "Pusher": _push,
}


def evaluation_of(outputs: dict) -> Evaluation:
    """The scores in an Evaluator's outputs."""
    return read_evaluation(_path(outputs, "evaluation"))


def is_blessed(outputs: dict) -> bool:
    """Whether an Evaluator's outputs bless the model."""
    return (_path(outputs, "blessing") / "BLESSED").exists()


def pushed_version(outputs: dict) -> str | None:
    """Where a Pusher pushed the model, from its outputs; None if it was not pushed."""
    (artifact,) = outputs["pushed_model"]
    if not artifact.get_int_custom_property("pushed"):
        return None
    return artifact.get_string_custom_property("pushed_destination")


def _path(outputs: dict, key: str) -> Path:
    (artifact,) = outputs[key]
    return Path(artifact.uri)

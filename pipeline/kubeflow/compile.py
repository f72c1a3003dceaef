"""Compiles the pipeline into the file that Kubeflow Pipelines or Vertex AI runs."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import (
    KubeflowV2DagRunner,
    KubeflowV2DagRunnerConfig,
)

from data.beam_runner import IN_PROCESS, on_other_machines
from data.errors import DataError
from data.fields import Fields
from data.schema import class_names, read_schema
from data.splits import SPLITS
from pipeline.config import Config
from pipeline.inputs import schema_path
from pipeline.kubeflow.document import LOOKED_UP, adapt, check_gpu_type
from pipeline.kubeflow.pushed import PushedBaselines
from pipeline.kubeflow.uris import MOUNTS, check_uri, to_path
from pipeline.pipeline import Inputs, create_pipeline
from pipeline.resources import check_image, resources_of
from trainer.config import LATEST
from trainer.files import MODEL_NAME
from trainer.model_zoo import anchor_spec

COMMAND = ("python", "-m", "pipeline.kubeflow.entrypoint")

_VERTEX = ("gs://",)

# A placeholder in the compiled pipeline, replaced by the run's parameter.
_RECORDS_AT_RUN_TIME = "records"


def compile_pipeline(
    config: Config,
    output: Path,
    *,
    image: str,
    root: str,
    data: str,
    pattern: str,
    fields: Fields,
    serving_dir: str,
    work_dir: str,
    vertex: bool = False,
    beam_args: Sequence[str] = IN_PROCESS,
) -> dict:
    """Writes the compiled pipeline and returns its specification.

    Does not access the cluster: the data can be remote or not exist yet.

    Args:
      image: container image with this project and the packages of requirements.lock.
      root: URI of an object store for the artifacts.
      data: folder of the TFRecords, a URI or a path in the containers; a run can override it with
        another of the same kind.
      pattern: files of a split in that folder, with `{split}` for its name; `{SPAN}` and
        `{VERSION}` as in ImportExampleGen.
      fields: names of the records' fields.
      serving_dir: where to push models, a path in the containers (on Vertex AI a URI).
      work_dir: for unfinished trainings, likewise.
      beam_args: from `data.beam_runner.beam_arguments`, for every component that uses Beam.

    Raises:
      DataError: the configuration needs something that the cluster lacks.
    """
    _check(
        config,
        image=image,
        root=root,
        data=data,
        pattern=pattern,
        serving_dir=serving_dir,
        work_dir=work_dir,
        vertex=vertex,
    )
    if on_other_machines(beam_args):
        _check_reach(root, data)
    schema = schema_path(config, fields)
    inputs = Inputs(
        records=Path(_RECORDS_AT_RUN_TIME),
        patterns={split: pattern.replace("{split}", split) for split in SPLITS},
        fields=fields,
        schema_path=schema,
        classes=() if schema is None else class_names(read_schema(schema)),
    )
    pipeline = create_pipeline(
        config,
        inputs,
        name=f"ssd-{config.preset}",
        root=root,
        serving_dir=serving_dir,
        work_dir=to_path(work_dir),
        beam_args=beam_args,
        baselines=PushedBaselines(f"{serving_dir}/{MODEL_NAME}"),
    )
    runner = KubeflowV2DagRunner(
        KubeflowV2DagRunnerConfig(
            default_image=image, default_commands=list(COMMAND), use_pipeline_spec_2_1=True
        )
    )
    job = runner.run(pipeline, write_out=False)
    platform = adapt(
        job["pipelineSpec"], config, root=root, data=data, schema=schema, vertex=vertex
    )
    if vertex:
        text = json.dumps(job, indent=2, sort_keys=True) + "\n"
    else:
        documents = [job["pipelineSpec"], *([platform] if platform else [])]
        text = yaml.safe_dump_all(documents, sort_keys=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(output)
    return job["pipelineSpec"]


def _check_reach(root: str, data: str) -> None:
    for name, place in (("--pipeline-root", root), ("--data", data)):
        if not place.startswith("gs://"):
            raise DataError(
                f"{name} {place}: workers on other machines cannot see the container's folders, "
                "into which Kubeflow copies objects, and the only object store that TFX itself "
                "reads is Cloud Storage. Use gs://..., or run Beam in the containers: --beam "
                "direct or multiprocess"
            )


def _check(
    config: Config,
    *,
    image: str,
    root: str,
    data: str,
    pattern: str,
    serving_dir: str,
    work_dir: str,
    vertex: bool,
) -> None:
    """Raises DataError for what would otherwise fail on the cluster."""
    anchor_spec(config.trainer.detector, config.trainer.anchors)
    try:
        check_image(image)
    except ValueError as error:
        raise DataError(f"--image {image!r}: {error}") from error
    if config.serving.infra_validator:
        raise DataError(
            f"serving.infra_validator={config.serving.infra_validator}: TFX's InfraValidator does "
            "not run on Kubeflow Pipelines 2 or Vertex AI. Leave it out, and the embedded server "
            "checks the model"
        )
    start = config.trainer.warm_start
    if start not in ("", LATEST):
        if not start.startswith(tuple(MOUNTS)):
            raise DataError(
                f"trainer.warm_start={start}: a cluster imports a model from an object store; "
                f"write {LATEST}, or a URI that starts with {' or '.join(MOUNTS)}"
            )
        check_uri("trainer.warm_start", start)
    if "{split}" not in pattern:
        raise DataError(f"--pattern {pattern}: write {{split}} in place of a split's name")
    if config.training_job.workers:
        _check_training_job(config, vertex)
    if vertex:
        check_uri("--pipeline-root", root, _VERTEX)
        check_uri("--data", data, _VERTEX)
        check_uri("--serving-dir", serving_dir, _VERTEX)
        check_uri("--work-dir", work_dir, ("/", *_VERTEX))
        return
    check_uri("--pipeline-root", root)
    check_uri("--data", data, ("/", *MOUNTS))
    for name, folder in (("--work-dir", work_dir), ("--serving-dir", serving_dir)):
        if not folder.startswith("/"):
            raise DataError(f"{name} {folder}: write an absolute path on a volume of the pods")
    for component in ("Pusher", *LOOKED_UP):
        volumes = resources_of(component, config.resources).volumes
        mounts = [entry.split(":", 1)[1] for entry in volumes]
        if not any(Path(serving_dir).is_relative_to(mount) for mount in mounts):
            raise DataError(
                f"--serving-dir {serving_dir}: no volume is mounted there in {component}, so "
                "pushed models would be lost with the container. Name a persistent volume claim: "
                f"--set resources.all.volumes=CLAIM:{serving_dir}"
            )


def _check_training_job(config: Config, vertex: bool) -> None:
    workers = config.training_job.workers
    if vertex:
        raise DataError(
            f"training_job.workers={workers}: Vertex AI cannot start a Kubernetes Job. Train in "
            "the Trainer, with more GPUs: resources.Trainer.gpu_count"
        )
    check_gpu_type("training_job", config.training_job.gpu_type)
    if gpus := resources_of("Trainer", config.resources).gpu_count:
        raise DataError(
            f"resources.Trainer.gpu_count={gpus}: the Trainer only waits for the {workers} workers "
            "of training_job, which have their own GPUs (training_job.gpu_count). Add "
            "--set resources.Trainer.gpu_count=0"
        )

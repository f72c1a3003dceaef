"""The pipeline on Kubeflow Pipelines 2: `ssd compile`, `submit` and more."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data.beam_runner import add_arguments, arguments_of
from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.fields import COMMON, HIKAPOK

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Cluster
    from pipeline.kubeflow.workflow import Task

# File names of a split as written by `ssd convert` and by SSD.TensorFlow.
_PATTERNS = {"common": "{split}/*", "hikapok": "{split}-*"}
_FIELDS = {"common": COMMON, "hikapok": HIKAPOK}


@as_command
def main(arguments: Arguments = None) -> int | None:
    """Runs the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    quiet(options.verbose)
    return options.run(options)


def _compile(options: argparse.Namespace) -> None:
    from pipeline.arguments import read_config

    config = read_config(options)
    beam_args = arguments_of(options, image=options.image)
    # TFX takes seconds to import, so the options are checked first.
    from pipeline.kubeflow.compile import compile_pipeline

    spec = compile_pipeline(
        config,
        options.output,
        image=options.image,
        root=options.pipeline_root,
        data=options.data,
        pattern=options.pattern or _PATTERNS[options.fields],
        fields=_FIELDS[options.fields],
        serving_dir=options.serving_dir,
        work_dir=options.work_dir,
        vertex=options.vertex,
        beam_args=beam_args,
    )
    print(f"wrote {options.output}: {len(spec['root']['dag']['tasks'])} tasks")
    for name, parameter in sorted(spec["root"]["inputDefinitions"]["parameters"].items()):
        print(f"  parameter {name}={parameter['defaultValue']}")


def _submit(options: argparse.Namespace) -> int:
    cluster = _connect(options)
    run = cluster.submit(
        options.package,
        experiment=options.experiment,
        run_name=options.run_name,
        parameters=dict(options.param),
        cron=options.cron,
        version=options.version,
        cache=not options.no_cache,
    )
    if options.cron:
        print(f"recurring run {run}: {options.cron}")
        return 0
    print(f"run {run}\n  {options.host.rstrip('/')}/#/runs/details/{run}")
    if not options.wait:
        return 0
    state = cluster.wait(run, lambda task: print(_line(task), flush=True))
    print(f"run {run}: {state}")
    return 0 if state == "SUCCEEDED" else 1


def _status(options: argparse.Namespace) -> None:
    state, tasks = _connect(options).status(options.run_id)
    print(f"run {options.run_id}: {state}")
    for task in tasks:
        print(_line(task))


def _logs(options: argparse.Namespace) -> None:
    for component, text in _connect(options).logs(options.run_id, options.component):
        print(f"==> {component}\n{text.rstrip()}")


def _connect(options: argparse.Namespace) -> "Cluster":
    from pipeline.kubeflow.client import Cluster, Connection

    names = [field.name for field in dataclasses.fields(Connection)]
    return Cluster(Connection(**{name: getattr(options, name) for name in names}))


def _line(task: "Task") -> str:
    attempt = f", attempt {task.attempt}" if task.attempt > 1 else ""
    return f"  {task.name} {task.state.lower()}{attempt}" + (
        f": {task.error}" if task.error else ""
    )


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: write name=value")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description="The pipeline on Kubeflow Pipelines 2.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_compile(commands)
    _add_submit(commands)
    status = commands.add_parser("status", help="show the state of a run")
    status.set_defaults(run=_status)
    logs = commands.add_parser("logs", help="print the logs of a run's containers")
    logs.set_defaults(run=_logs)
    for command in (status, logs):
        command.add_argument("run_id", metavar="RUN", help="id that submit printed")
        _add_connection(command)
    logs.add_argument("component", nargs="?", help="only this one, such as Trainer")
    for command in commands.choices.values():
        command.add_argument("--verbose", action="store_true", help="show what the libraries log")
    return parser


def _add_compile(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "compile",
        help="write the pipeline to a file",
        epilog="Options after -- go to Beam, as in: --beam flink -- --job_endpoint=flink:8099",
    )
    parser.set_defaults(run=_compile)
    from pipeline.arguments import add_config_arguments  # slow to import

    add_config_arguments(parser, "resources.Trainer.gpu_count=2")
    parser.add_argument("--image", required=True, help="container image of this project")
    parser.add_argument(
        "--pipeline-root", required=True, metavar="URI", help="s3://, minio:// or gs://"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="URI|PATH",
        help="folder of TFRecords in an object store or on a volume; a run can override it",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--fields",
        choices=_FIELDS,
        default="common",
        help="field names of the records: from `ssd convert` (common) or SSD.TensorFlow (hikapok)",
    )
    parser.add_argument(
        "--pattern",
        help="files of a split under --data, as in span-{SPAN}/{split}/* "
        "(default: {split}/*, or {split}-* with --fields hikapok)",
    )
    parser.add_argument(
        "--serving-dir",
        default="/models",
        metavar="PATH",
        help="folder on a volume to push models to (default: %(default)s)",
    )
    parser.add_argument(
        "--work-dir",
        default="/tmp/unfinished",
        metavar="PATH",
        help="checkpoints of unfinished trainings; on a volume, retries resume from them "
        "(default: %(default)s)",
    )
    parser.add_argument("--vertex", action="store_true", help="write JSON for Vertex AI")
    add_arguments(parser)


def _add_submit(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser("submit", help="run a compiled pipeline")
    parser.set_defaults(run=_submit)
    parser.add_argument("package", type=Path, metavar="FILE", help="written by compile")
    _add_connection(parser)
    parser.add_argument("--experiment", default="ssd", help="(default: %(default)s)")
    parser.add_argument("--run-name", metavar="NAME", help="(default: pipeline name and time)")
    parser.add_argument("--version", metavar="NAME", help="new version of the pipeline")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        type=_parameter,
        metavar="NAME=VALUE",
        help="set a parameter that compile listed; repeatable",
    )
    parser.add_argument(
        "--cron",
        metavar="FIELDS",
        help="run on a schedule: second minute hour day month weekday, as in '0 0 3 * * *'",
    )
    parser.add_argument("--no-cache", action="store_true", help="rerun every component")
    parser.add_argument("--wait", action="store_true", help="wait until the run ends")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", required=True, metavar="URL", help="Kubeflow Pipelines API")
    parser.add_argument("--namespace", help="yours, on multi-user Kubeflow")
    parser.add_argument(
        "--existing-token",
        metavar="TOKEN",
        default=os.environ.get("KFP_TOKEN"),
        help="bearer token (default: the environment variable KFP_TOKEN)",
    )
    parser.add_argument("--cookies", help="from a browser login")
    parser.add_argument("--ssl-ca-cert", metavar="FILE", help="certificate authority")
    parser.add_argument("--client-cert", metavar="FILE", help="client certificate")
    parser.add_argument("--client-key", metavar="FILE", help="key of --client-cert")


if __name__ == "__main__":
    sys.exit(main())

"""The `ssd` command: all command lines of the project under one name.

A subcommand is the `main` function of a module, imported only when it is called, so
`ssd convert` and `python -m data.convert` are the same.
"""

import importlib
import sys
from importlib.metadata import version
from typing import Any

import click

from data.command_line import Arguments, as_command

# Name, module (and function, unless it is main), arguments to prepend, help line.
COMMANDS = (
    ("run", "local_runner", (), "Run the pipeline on this machine."),
    ("convert", "data.convert", (), "Convert VOC or COCO annotations to TFRecords."),
    ("sample", "data.sample", (), "Draw the sample data set."),
    ("contact-sheet", "pipeline.contact_sheet", (), "Draw augmented training pictures."),
    ("predict", "serving.predict", (), "Detect objects in pictures with an exported model."),
    ("client", "serving.client", (), "Detect objects in pictures with a model server."),
    ("serve", "serving.server:run", (), "Serve models like TensorFlow Serving."),
    ("request-examples", "serving.request_examples", (), "Turn logged requests into records."),
    ("versions", "serving.versions", (), "List, label, switch and remove served versions."),
    ("runs", "pipeline.runs.__main__", (), "List, show, trace and compare runs."),
    ("evaluate", "pipeline.evaluate", (), "Measure an exported model on labelled data."),
    ("report", "pipeline.report", (), "Rewrite the report of a run."),
    ("voc-map", "metrics.voc_map", (), "Score detection files by the VOC protocol."),
    ("compile", "kubeflow_runner", ("compile",), "Compile the pipeline for Kubeflow Pipelines."),
    ("submit", "kubeflow_runner", ("submit",), "Run a compiled pipeline on Kubeflow."),
    ("status", "kubeflow_runner", ("status",), "Show the state of a run on Kubeflow."),
    ("logs", "kubeflow_runner", ("logs",), "Print the logs of a run's containers."),
    ("worker", "trainer.worker", (), "Train as one of several workers."),
)


class _Subcommand(click.Command):
    """Passes all arguments after its name to a module's `main`."""

    def __init__(self, name: str, target: str, before: tuple[str, ...], help: str) -> None:
        super().__init__(name, help=help, short_help=help)
        self.target = target
        self.before = before

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> click.Context:
        return ctx


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@as_command
def main(arguments: Arguments = None) -> int:
    """Runs the command line; returns the exit status."""
    commands = _Commands(
        "ssd",
        commands=[_Subcommand(*entry) for entry in COMMANDS],
        help="SSD object detection as a TFX pipeline.",
        epilog="See ssd COMMAND --help for its options.",
    )
    click.version_option(version("ssd-tfx"))(commands)
    try:
        chosen: Any = commands.main(arguments, prog_name="ssd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    if not isinstance(chosen, click.Context):
        return chosen or 0
    subcommand: Any = chosen.command
    # argparse takes the program name from here.
    sys.argv[0] = "ssd" if subcommand.before else f"ssd {subcommand.name}"
    module, _, function = subcommand.target.partition(":")
    run = getattr(importlib.import_module(module), function or "main")
    status: int = run([*subcommand.before, *chosen.args]) or 0
    return status

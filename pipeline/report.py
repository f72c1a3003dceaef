"""Command line: rewrites the report of a finished run, `ssd report --run DIR`."""

import json
import sys
import webbrowser
from pathlib import Path
from typing import Any

from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from pipeline.runs.store import Run, runs_of


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line."""
    parser = Parser(description="Writes report.html into the output folder of a finished run.")
    parser.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="output folder of `ssd run`"
    )
    parser.add_argument("--open", action="store_true", help="open the report in a browser")
    options = parser.parse_args(arguments)
    quiet()
    path = write_report(options.run)
    print(path)
    if options.open:
        webbrowser.open(path.resolve().as_uri())


def write_report(folder: Path) -> Path:
    """Writes the report of the latest evaluated run under an output folder; returns its path.

    Raises:
        DataError: no run got as far as the Pusher.
    """
    runs = runs_of(folder)
    places = next((found for run in reversed(runs) if (found := _places(run))), None)
    if places is None:
        raise DataError(
            f"{folder}: no run here got as far as the Pusher, so there is nothing to report. "
            "Finish one with `ssd run`"
        )
    # TensorFlow takes seconds to import, so errors come first.
    from components.artifacts import REPORT_FILE
    from components.detection_report.report import Sources, build_report

    html = build_report(Sources(**places))
    path = folder / REPORT_FILE
    partial = path.with_suffix(".partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)
    return path


def _places(run: Run) -> dict[str, Any] | None:
    """`Sources` as a dict; None if the run did not reach the Pusher or its files are gone."""
    serving_check = "ServingCheck" if run.step("ServingCheck") else "InfraValidator"
    wanted = {
        "card": ("ModelCard", "card"),
        "model": ("Trainer", "model"),
        "evaluation": ("Evaluator", "evaluation"),
        "model_run": ("Trainer", "model_run"),
        "examples": ("ImportExampleGen", "examples"),
        "statistics": ("StatisticsGen", "statistics"),
        "infra_blessing": (serving_check, "blessing"),
        "pushed": ("Pusher", "pushed_model"),
    }
    found, steps = {}, {}
    for name, (component, key) in wanted.items():
        step = run.step(component)
        artifact = step.output(key) if step and step.state in ("complete", "cached") else None
        if step is None or artifact is None or not Path(artifact.uri).exists():
            return None
        found[name], steps[component] = artifact, step
    (split,) = json.loads(steps["Evaluator"].parameters["example_splits"])
    return {
        **{name: artifact.uri for name, artifact in found.items() if name != "model"},
        "examples": f"{found['examples'].uri}/Split-{split}",
        "pushed": found["pushed"].properties.get("pushed_destination"),
        "artifacts": {f"{item.type} {item.id}": item.uri for item in found.values()},
    }


if __name__ == "__main__":
    sys.exit(main())

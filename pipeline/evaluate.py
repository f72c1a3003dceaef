"""Evaluates a model on labelled data: `ssd evaluate --model DIR --data DIR`.

Computes the same metric, intervals, slices, thresholds and report as a pipeline run.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data.beam_runner import add_arguments, arguments_of
from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.paths import local_path
from data.progress import watch
from data.splits import SPLITS
from pipeline.config import Config, load_config


@dataclass(frozen=True)
class Outcome:
    """The folder of an evaluation, and its facts in the form of `components.model_card.facts`."""

    folder: Path
    facts: dict


@as_command
def main(arguments: Arguments = None) -> None:
    """Runs the command line."""
    options = _parser().parse_args(arguments)
    quiet(options.verbose)
    config = load_config(None, options.set)
    beam_args = arguments_of(options)
    output = (
        options.output or Path("evaluations") / f"{options.data.resolve().name}-{options.split}"
    )
    # TFX takes seconds to import, so the options are checked first.
    from pipeline.evaluation_report import print_outcome, write_comp4

    outcome = evaluate(
        options.model,
        options.data,
        output,
        split=options.split,
        baseline=options.baseline,
        config=config,
        beam_args=beam_args,
    )
    print_outcome(outcome.facts)
    if options.format == "comp4":
        print(f"detections: {write_comp4(outcome.folder, outcome.facts)}")
    print(f"report:     {outcome.folder / 'report.html'}")


def evaluate(
    model: Path,
    data: Path,
    output: Path,
    *,
    split: str,
    baseline: Path | None,
    config: Config,
    beam_args: Sequence[str],
) -> Outcome:
    """Writes `evaluation/`, `facts.json` and `report.html` into a new folder.

    Args:
      model, baseline: a version folder, or the folder of all versions.
      data: TFRecords, or annotated pictures, which are converted into `output` first.
      split: `train`, `eval`, `test` or `all`.
      config: only its parts `data` (for a conversion) and `evaluator` are used.

    Raises:
      DataError: the model, the data or the folder cannot be used.
    """
    from components.evaluator.answers import STAGE, read_answers
    from components.evaluator.standalone import evaluate_model, model_folder
    from pipeline.evaluation_data import find_records
    from pipeline.evaluation_report import gather, write_report
    from trainer.input_pipeline import count_records

    model_dir = model_folder(model)
    baseline_dir = model_folder(baseline) if baseline else None
    if output.exists() and any(output.iterdir()):
        raise DataError(f"{output}: not empty. Name another folder with --output")
    output.mkdir(parents=True, exist_ok=True)
    records = find_records(data, split, model_dir, output, config, beam_args)
    pictures, fingerprint = count_records([str(file) for file in records.files])
    # In `output`, since workers on other machines can reach it.
    marks = output / "marks"
    marks.mkdir()
    with watch(marks, {STAGE: pictures}, Console(stderr=True)):
        evaluate_model(
            model_dir,
            records.files,
            records.eval_config(config),
            output / "evaluation",
            baseline=baseline_dir,
            marks=marks,
            beam_args=beam_args,
        )
    shutil.rmtree(marks)
    evaluation = output / "evaluation"
    answers = read_answers(str(evaluation), list(records.classes))
    facts = gather(model_dir, baseline_dir, records, fingerprint, evaluation, answers)
    (output / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_report(facts, answers, records, output)
    return Outcome(output, facts)


def _parser() -> Parser:
    parser = Parser(
        description="Evaluates an exported model on labelled data, as a pipeline run does.",
        epilog="Options after -- go to Beam, as in: --beam multiprocess -- --direct_num_workers=4",
    )
    parser.add_argument(
        "--model",
        type=local_path,
        required=True,
        help="a version folder, or its parent",
    )
    parser.add_argument(
        "--data",
        type=local_path,
        required=True,
        help="folder of TFRecords or annotated pictures (VOC, COCO)",
    )
    parser.add_argument(
        "--split",
        choices=(*SPLITS, "all"),
        default="test",
        help="the part of the data to evaluate on (default: %(default)s)",
    )
    parser.add_argument(
        "--baseline", type=local_path, help="model to compare with on the same pictures"
    )
    parser.add_argument(
        "--output",
        type=local_path,
        help="new folder for the results (default: evaluations/DATA-SPLIT)",
    )
    parser.add_argument(
        "--format",
        choices=("comp4",),
        help="also write the detections, as files for `ssd voc-map`",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.FIELD=VALUE",
        help="override a setting of data or evaluator, as in evaluator.slices=objects or "
        "data.pixels_from=0; repeatable",
    )
    parser.add_argument("--verbose", action="store_true", help="show what the libraries log")
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

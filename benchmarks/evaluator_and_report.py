"""The cost of Evaluator plus report, compared with the Evaluator alone.

    python -m benchmarks.evaluator_and_report [--pictures N] [--rounds N] [--json FILE]

Uses the preset light's detector with random weights, on drawn pictures with 20 classes. "Alone"
means that the Evaluator does not write the model's answers, which only the report needs. The
report's part includes the facts of the model card.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.drawn import draw
from benchmarks.predict import draw_pictures
from benchmarks.report import Bound, report
from benchmarks.side_by_side import Task, cpu_ratio, measure, ratio

_PRESET, _CLASSES, _SHARDS = "light", 20, 4
_MOST = 1.15
_ALONE, _BOTH = "Evaluator alone", "Evaluator and report"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluator_and_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # In a separate process, so that this one stays small (side_by_side).
        preparing = multiprocessing.get_context("spawn").Process(
            target=_prepare, args=(place, options.pictures)
        )
        preparing.start()
        preparing.join()
        if preparing.exitcode:
            return 1
        tasks = {_ALONE: Task(alone, (place,)), _BOTH: Task(with_report, (place,))}
        measured = measure(tasks, options.rounds)
    rows = [
        {
            "what": name,
            "pictures": options.pictures,
            "seconds": found.median,
            "CPU s": found.cpu_median,
            "peak memory MiB": found.peak_mib,
        }
        for name, found in measured.items()
    ]
    both, one = measured[_BOTH], measured[_ALONE]
    bounds = [
        Bound(f"{_BOTH} to {_ALONE}, seconds", ratio(both, one), most=_MOST),
        Bound(f"{_BOTH} to {_ALONE}, CPU seconds", cpu_ratio(both, one), most=_MOST),
    ]
    return report(f"evaluation with a report, {_PRESET}", rows, bounds, options.json)


def alone(place: Path) -> Callable[[], object]:
    """An action that evaluates without keeping answers."""
    from components.evaluator import component

    component.answers_kept_in = lambda evaluation: nullcontext()
    return _action(place, with_report=False)


def with_report(place: Path) -> Callable[[], object]:
    """An action that evaluates and writes the report from the answers kept."""
    return _action(place, with_report=True)


def _action(place: Path, *, with_report: bool) -> Callable[[], object]:
    from components.evaluator.answers import read_answers
    from components.evaluator.standalone import evaluate_model
    from data.fields import COMMON
    from data.origin import Origin
    from pipeline.config import load_config
    from pipeline.evaluation_data import Records
    from pipeline.evaluation_report import gather, write_report

    files = tuple(sorted((place / "records").iterdir()))
    names = dict.fromkeys(name for name in vars(COMMON).values() if name != COMMON.is_crowd)
    classes, origin = tuple(_names()), Origin("drawn")
    records = Records("drawn", files, COMMON, tuple(names), classes, origin)
    config = records.eval_config(load_config(None, []))
    model = place / "model"

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            output = Path(folder)
            evaluate_model(model, files, config, output / "evaluation")
            kept = list((output / "evaluation").glob("answers/*"))
            if bool(kept) != with_report:
                raise RuntimeError("answers are kept without a report, or missing for one")
            if with_report:
                answers = read_answers(str(output / "evaluation"), list(records.classes))
                facts = gather(model, None, records, "", output / "evaluation", answers)
                write_report(facts, answers, records, output)

    return run


def _prepare(place: Path, count: int) -> None:
    """Draws the records and exports a model that detects things in them."""
    from data.console import quiet

    quiet()
    import tensorflow as tf

    from benchmarks.serving_models import export_untrained
    from data.saved_model import IDENTITY
    from pipeline.config import PRESETS

    draw_pictures(place / "pictures", count)
    jpegs = [path.read_bytes() for path in sorted((place / "pictures").iterdir())]
    (place / "records").mkdir()
    for shard in range(_SHARDS):
        path = place / "records" / f"{shard:05d}.gz"
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP")) as writer:
            for number, example in _examples(jpegs):
                if number % _SHARDS == shard:
                    writer.write(example.SerializeToString())
    export_untrained(_PRESET, _CLASSES, place / "model", jpegs[0])
    # What a training adds and the report shows.
    identity = place / "model" / IDENTITY
    trained = {"trainer": asdict(PRESETS[_PRESET].trainer), "code_version": "none"}
    identity.write_text(json.dumps(json.loads(identity.read_text()) | trained))


def _examples(jpegs: list[bytes]) -> Iterator[tuple[int, object]]:
    from data.jpeg import read_header
    from data.record_builder import build_example
    from data.voc import Annotation, VocObject

    ids = {name: number for number, name in enumerate(_names(), start=1)}
    drawn = draw(len(jpegs), _CLASSES, detections=0)
    for number, (jpeg, picture) in enumerate(zip(jpegs, drawn, strict=True)):
        header = read_header(jpeg)
        objects = tuple(
            VocObject(_names()[kind], (xmin + 1, ymin + 1, xmax, ymax), False, False, False)
            for (ymin, xmin, ymax, xmax), kind in zip(
                np.round(picture.objects).tolist(), picture.object_classes, strict=True
            )
        )
        annotation = Annotation(f"{number}", "", header.width, header.height, objects)
        yield (
            number,
            build_example(
                annotation,
                jpeg,
                header,
                filename=f"{number}.jpg",
                source_id=f"drawn/{number}",
                class_ids=ids,
            ),
        )


def _names() -> list[str]:
    return [f"class {number}" for number in range(1, _CLASSES + 1)]


if __name__ == "__main__":
    sys.exit(main())

"""The report of a run: facts in, one HTML file out."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
import tensorflow as tf

from components.artifacts import FACTS_FILE, SERVING_CHECK_FILE, read_json
from components.detection_report import charts, gallery, statistics
from components.detection_report.pictures import encoded_pictures
from components.detection_report.training_curves import read_curves
from components.evaluator.answers import read_answers
from components.mean_average_precision.metric_names import CURVE_RECALLS
from data.palette import class_colour
from data.settings_file import as_yaml
from metrics import confusion, error_types, score_thresholds, voc
from metrics.accumulator import DetectionAccumulator
from trainer.input_pipeline import list_shards

_ERROR_MEANINGS = {
    error_types.CLASSIFICATION: "a box on an object of another class",
    error_types.LOCALISATION: "the right class, but too little overlap",
    error_types.BOTH: "another class and too little overlap",
    error_types.DUPLICATE: "an object that a more confident detection has already found",
    error_types.BACKGROUND: "a box where there is nothing",
    error_types.MISSED: "an object that was not found",
}

# Pictures in each of the three rows, some 40 kB each.
_PICTURES = 12
_DEFAULT_SCORE = 0.5
# Rounding difference allowed between the Evaluator's mAP and that of the answers.
_TOLERANCE = 5e-4


@dataclass(frozen=True)
class Sources:
    """The folders that the report is made from, on any file system TensorFlow supports.

    `examples` is the evaluated split's folder, `infra_blessing` the output of ServingCheck or
    InfraValidator, `pushed` the pushed version, if any, and `artifacts` the URIs to list in the
    lineage.
    """

    card: str
    evaluation: str
    model_run: str
    examples: str
    statistics: str
    infra_blessing: str
    pushed: str | None = None
    artifacts: dict[str, str] = field(default_factory=dict)


def build_report(sources: Sources) -> str:
    """The report's HTML.

    Raises:
        DataError: an earlier component's output is missing or damaged.
    """
    facts = read_json(f"{sources.card}/{FACTS_FILE}")
    shards = list_shards([f"{sources.examples}/*"])
    accumulator = read_answers(sources.evaluation, facts["model"]["classes"])
    found = analyse(accumulator)
    pictures = draw_galleries(accumulator, found, shards)
    return render(
        facts,
        found,
        pictures,
        curves=read_curves(f"{sources.model_run}/logs"),
        features={
            split: statistics.read_split(sources.statistics, split)
            for split in facts["data"]["splits"]
        },
        serving=_serving_check(sources.infra_blessing),
        pushed=sources.pushed,
        artifacts=sources.artifacts,
    )


def analyse(accumulator: DetectionAccumulator) -> dict:
    """Analyses a split's detections beyond the Evaluator's numbers.

    Returns:
      `map` of these detections; `errors`, an `ErrorAnalysis`; `explorer`, counts by class and score
      threshold; `best`, each class's best F1; `threshold`, the best over all classes, used for
      `outcomes` and the confusion `matrix`; `positives`, objects by class.
    """
    columns = accumulator.columns()
    num_classes = len(accumulator.class_names)
    result = voc.evaluate(accumulator)
    explorer = score_thresholds.explore(result)
    best = {name: score_thresholds.best_f1(counts) for name, counts in explorer.items()}
    of_all = best[""]
    threshold = of_all["threshold"] if of_all else _DEFAULT_SCORE
    outcomes = confusion.match_at(columns, num_classes, threshold)
    return {
        "map": result.map_11_point,
        "errors": error_types.analyse(accumulator),
        "explorer": explorer,
        "best": best,
        "threshold": threshold,
        "outcomes": outcomes,
        "matrix": confusion.confusion_matrix(columns, outcomes, num_classes),
        "positives": {name: row.positives for name, row in result.classes.items()},
    }


def draw_galleries(accumulator: DetectionAccumulator, found: dict, shards: list[str]) -> dict:
    """The drawn pictures by row: `misses`, `mistakes`, `hits`."""
    columns, outcomes = accumulator.columns(), found["outcomes"]
    kinds = found["errors"].kinds
    rows = {
        "misses": gallery.worst_misses(columns, outcomes, _PICTURES),
        "mistakes": gallery.most_confident_mistakes(columns, outcomes, kinds, _PICTURES),
        "hits": gallery.typical_hits(columns, outcomes, _PICTURES),
    }
    wanted = {entry["picture"] for row in rows.values() for entry in row}
    # By picture index; records have ids.
    ids = {number: str(columns.image_ids[number]) for number in wanted}
    encoded = encoded_pictures(shards, ids.values())
    drawn = {
        number: gallery.draw(number, encoded[image_id], columns, outcomes, accumulator.class_names)
        for number, image_id in ids.items()
    }
    names = accumulator.class_names

    def caption(row: str, picture: int, focus: int) -> str:
        if row == "misses":
            return f"{names[columns.gt_class[focus]]} not found"
        if row == "mistakes":
            name = names[columns.det_class[focus]]
            return f"{name} {columns.det_score[focus]:.2f}: {kinds[focus]}"
        return gallery.summary(drawn[picture])

    return {
        row: [
            drawn[entry["picture"]] | {"focus": entry["focus"], "caption": caption(row, **entry)}
            for entry in entries
        ]
        for row, entries in rows.items()
    }


def _serving_check(folder: str) -> dict | None:
    """ServingCheck's measurements; None after InfraValidator, which only says yes or no."""
    path = f"{folder}/{SERVING_CHECK_FILE}"
    return read_json(path) if tf.io.gfile.exists(path) else None


def render(
    facts: dict,
    found: dict,
    pictures: dict,
    *,
    curves: dict,
    features: dict,
    serving: dict | None = None,
    pushed: str | None = None,
    artifacts: dict[str, str] | None = None,
) -> str:
    """Fills the template; see `build_report` for where the parts come from."""
    evaluation = facts["evaluation"]
    own_map = None if np.isnan(found["map"]) else float(found["map"])
    reported = evaluation["map"]["value"]
    agrees = own_map == reported or (
        None not in (own_map, reported) and abs(own_map - reported) <= _TOLERANCE
    )
    compared = [("this model", evaluation["map"])]
    before = "baseline" if facts["blessed"] is None else "previously blessed"
    if evaluation["map"]["baseline"]:
        compared.append((before, evaluation["map"]["baseline"]))
    return (
        _environment()
        .get_template("report.html")
        .render(
            facts=facts,
            evaluation=evaluation,
            model=facts["model"],
            data=facts["data"],
            found=found,
            colours={
                name: class_colour(class_id)
                for class_id, name in enumerate(facts["model"]["classes"], start=1)
            },
            own_map=None if agrees else own_map,
            interval_chart=charts.interval_chart(compared),
            curve_charts={
                entry["name"]: _precision_recall(entry, before)
                for entry in evaluation["classes"]
                if entry["curve"]
            },
            training_charts=_training_charts(curves),
            pictures=pictures,
            features=features,
            serving=serving,
            pushed=pushed,
            artifacts=artifacts or {},
            configuration=as_yaml({name: facts["model"][name] for name in ("preset", "trainer")}),
            explorer=json.dumps(found["explorer"]).replace("<", "\\u003c"),
            error_types=error_types.ERROR_TYPES,
            error_meanings=_ERROR_MEANINGS,
        )
    )


def _precision_recall(entry: dict, before: str) -> str:
    series = [charts.Series(f"{entry['name']}", "s0", _with_recall(entry["curve"]))]
    if entry["baseline_curve"]:
        curve = _with_recall(entry["baseline_curve"])
        series.insert(0, charts.Series(before, "s1", curve))
    title = f"precision over recall of {entry['name']}"
    return charts.line_chart(title, series, "recall", (0, 1), (0, 1))


def _with_recall(curve: list[float]) -> list[tuple[float, float]]:
    return list(zip(CURVE_RECALLS.tolist(), curve, strict=True))


def _training_charts(curves: dict) -> dict:
    """One chart per group of tags, which share the part before the slash."""
    groups: dict[str, list[str]] = {}
    for tag in sorted(curves):
        groups.setdefault(tag.split("/")[0], []).append(tag)
    return {
        group.replace("_", " "): {
            "chart": charts.line_chart(
                group,
                [charts.Series(tag, f"s{i}", curves[tag]) for i, tag in enumerate(tags)],
                "step",
            ),
            "names": [tag.rpartition("/")[2].replace("_", " ") for tag in tags],
        }
        for group, tags in groups.items()
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=_number, signed=_signed)
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:+.{digits}f}"

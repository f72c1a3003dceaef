"""Outputs of an evaluation outside of a run: facts, a table, a report, files of detections."""

import math
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from components.artifacts import REPORT_FILE, read_json
from components.detection_report.report import analyse, draw_galleries, render
from components.evaluator.answers import read_answers
from components.model_card.facts import PACKAGES, with_thresholds
from components.model_card.scores import gather_scores
from data.saved_model import IDENTITY
from metrics.accumulator import DetectionAccumulator
from metrics.detection_files import write_detections
from pipeline.evaluation_data import Records


def gather(
    model: Path,
    baseline: Path | None,
    records: Records,
    fingerprint: str,
    evaluation: Path,
    answers: DetectionAccumulator,
) -> dict:
    """The facts in the form of `components.model_card.facts`, without those of a training."""
    scores = with_thresholds(gather_scores(str(evaluation)), answers)
    columns = answers.columns()
    objects = np.bincount(columns.gt_class, minlength=len(records.classes))
    counts = {
        "pictures": len(columns.image_ids),
        "objects": len(columns.gt_class),
        "objects_per_class": dict(zip(records.classes, objects.tolist(), strict=True)),
    }
    return {
        "blessed": None,
        "evaluation": {**scores, "baseline_model": str(baseline) if baseline else None},
        "model": read_json(f"{model}/{IDENTITY}"),
        "training": None,
        "origin": asdict(records.origin),
        "data": {"splits": {records.name: counts}, "notes": list(records.notes)},
        "fingerprints": {records.name: fingerprint},
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def write_report(
    facts: dict, answers: DetectionAccumulator, records: Records, folder: Path
) -> None:
    """Writes report.html into `folder`."""
    found = analyse(answers)
    pictures = draw_galleries(answers, found, [str(file) for file in records.files])
    html = render(facts, found, pictures, curves={}, features={})
    (folder / REPORT_FILE).write_text(html, encoding="utf-8")


def write_comp4(folder: Path, facts: dict) -> Path:
    """Writes all detections of an evaluation in the devkit's format; returns their folder."""
    accumulator = read_answers(str(folder / "evaluation"), facts["model"]["classes"])
    write_detections(accumulator, folder / "detections")
    return folder / "detections"


def print_outcome(facts: dict) -> None:
    """Prints the AP of each class with its interval and recommended threshold, and the mAP."""
    scores = facts["evaluation"]
    ((name, counts),) = facts["data"]["splits"].items()
    console = Console(highlight=False, soft_wrap=True)
    for note in facts["data"]["notes"]:
        console.print(f"  {note}", markup=False)
    table = Table(title=f"AP on {name}: {counts['pictures']:,} pictures (11-point, IoU > 0.5)")
    compared = scores["map"]["baseline"] is not None
    columns = ("objects", "AP", "95 % interval", "threshold", *(("change",) if compared else ()))
    table.add_column("class")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in scores["classes"]:
        objects = f"{counts['objects_per_class'][row['name']]:,}"
        threshold = row["score_threshold"]
        shown = "" if threshold is None else f"{threshold:.2f}"
        table.add_row(
            row["name"], objects, *_cells(row["ap"]), shown, *_change(row["ap"], compared)
        )
    table.add_section()
    total = f"{counts['objects']:,}"
    table.add_row("mAP", total, *_cells(scores["map"]), "", *_change(scores["map"], compared))
    console.print(table)
    if compared and (change := scores["map"]["change"]):
        interval = ""
        if change.get("low") is not None:
            interval = f", 95 % interval {change['low']:+.4f} to {change['high']:+.4f}"
        console.print(f"change:     {change['value']:+.4f} mAP against the baseline{interval}")


def _cells(score: dict) -> tuple[str, str]:
    value = _number(score["value"])
    if score["low"] is None:
        return value, ""
    return value, f"{score['low']:.4f} - {score['high']:.4f}"


def _change(score: dict, compared: bool) -> tuple[str, ...]:
    if not compared:
        return ()
    change = score["change"]["value"] if score["change"] else None
    return ("" if change is None else f"{change:+.4f}",)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"

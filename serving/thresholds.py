"""Score thresholds of the detections shown: one for all classes, or one per class."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import DataError
from data.saved_model import FACTS

DEFAULT = 0.5
REPORT = "report"


@dataclass(frozen=True)
class ScoreThresholds:
    """`by_class` for the classes it names, `default` for the others."""

    default: float = DEFAULT
    by_class: Mapping[str, float] = field(default_factory=dict)

    @property
    def lowest(self) -> float:
        """No detection of any class is shown below this score."""
        return min([self.default, *self.by_class.values()])

    def keeps(self, name: str, score: float) -> bool:
        """Whether a detection of a class is shown."""
        return score >= self.by_class.get(name, self.default)


def parse_thresholds(text: str, model: Path | None = None) -> ScoreThresholds:
    """`0.3` for all, `RBC:0.49,WBC:0.1` for some (0.5 for the rest), or `report`.

    Args:
      model: folder of the pushed version whose recommendations `report` uses; `report:DIR` names
        another.

    Raises:
        DataError: none of these, or the model has no recommendations.
    """
    if text == REPORT or text.startswith(f"{REPORT}:"):
        folder = Path(text[len(REPORT) + 1 :]) if ":" in text else model
        if folder is None:
            raise DataError(
                "--score-threshold report: a server does not give its report's recommendations. "
                "Name the pushed model: --score-threshold report:OUTPUT/serving/ssd/VERSION"
            )
        return recommended(folder)
    default, by_class = DEFAULT, {}
    for part in text.split(","):
        name, colon, number = part.strip().rpartition(":")
        value = _number(number, text)
        if colon:
            by_class[name] = value
        else:
            default = value
    return ScoreThresholds(default, by_class)


def recommended(folder: Path) -> ScoreThresholds:
    """The thresholds that a pushed model's evaluation recommends; DataError without any."""
    path = folder / FACTS
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))["evaluation"]["classes"]
        found = {row["name"]: row["score_threshold"] for row in classes}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: no recommended thresholds ({error}). Give numbers, as in "
            "--score-threshold 0.5, or a model that this pipeline has pushed"
        ) from error
    return ScoreThresholds(by_class={n: value for n, value in found.items() if value is not None})


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise DataError(
            f"--score-threshold {whole}: {text!r} is not a score from 0 to 1. Write 0.3, or "
            "CLASS:0.3,CLASS:0.5, or report"
        )
    return value

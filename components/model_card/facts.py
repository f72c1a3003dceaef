"""Gathers the facts about a trained model from the components' outputs."""

from importlib import metadata

import tensorflow as tf

from components.artifacts import DATA_GATE_FILE, EXCLUDED_RECORDS, ORIGIN_FILE, read_json
from components.evaluator.answers import read_answers
from components.model_card.scores import gather_scores
from data.saved_model import IDENTITY
from metrics import score_thresholds, voc
from metrics.accumulator import DetectionAccumulator
from trainer.files import BEST_FILE, SUMMARY
from trainer.input_pipeline import count_records, list_shards

PACKAGES = ("tfx", "tensorflow", "keras", "numpy")


def gather_facts(
    *,
    examples: str,
    model: str,
    model_run: str,
    evaluation: str,
    blessing: str,
    gate: str,
    splits: dict[str, str],
) -> dict:
    """Everything known about a model before it is pushed, ready for JSON.

    Args:
      model: folder of the SavedModel.
      splits: folder of each split's examples.
      examples, model_run, evaluation, blessing, gate: folders that ImportExampleGen, Trainer,
        Evaluator and DataGate wrote.

    Returns:
      `blessed`; `evaluation` from `with_thresholds`; `model`, the exported identity; `training`
      with the last `losses` and the exported `checkpoint`; `origin`, the data set's `name` and what
      its conversion `left_out`; `data`, the gate's findings, not counting the pictures `left_out`
      of training; `fingerprints` of each split's records, independent of their order; `packages`,
      the versions of the main libraries.

    Raises:
      DataError: one of them is missing or damaged.
    """
    summary = read_json(f"{model_run}/{SUMMARY}")
    scores = gather_scores(evaluation)
    answers = read_answers(evaluation, [row["name"] for row in scores["classes"]])
    return {
        "blessed": tf.io.gfile.exists(f"{blessing}/BLESSED"),
        "evaluation": with_thresholds(scores, answers),
        "model": read_json(f"{model}/{IDENTITY}"),
        "training": {"losses": summary["losses"], "checkpoint": _exported_checkpoint(model_run)},
        "origin": read_json(f"{examples}/{ORIGIN_FILE}"),
        "data": _data(read_json(f"{gate}/{DATA_GATE_FILE}")),
        "fingerprints": {
            split: count_records(list_shards([f"{folder}/*"]))[1]
            for split, folder in splits.items()
        },
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def with_thresholds(scores: dict, answers: DetectionAccumulator) -> dict:
    """Adds each class's `score_threshold`, the one with the best F1, to `gather_scores`' result.

    It is None for a class without objects. It travels with the model for its users.
    """
    names = [row["name"] for row in scores["classes"]]
    counts = score_thresholds.explore(voc.evaluate(answers))
    best = {name: score_thresholds.best_f1(counts[name]) for name in names}
    thresholds = {name: found["threshold"] if found else None for name, found in best.items()}
    rows = [{**row, "score_threshold": thresholds[row["name"]]} for row in scores["classes"]]
    return {**scores, "classes": rows}


def _data(gate: dict) -> dict:
    """The gate's report, with the pictures left out of training not counted in the train split."""
    left_out = gate.get(EXCLUDED_RECORDS)
    if not left_out:
        return gate
    train = gate["splits"]["train"]
    train = {**train, "pictures": train["pictures"] - len(left_out), "left_out": left_out}
    return {**gate, "splits": {**gate["splits"], "train": train}}


def _exported_checkpoint(model_run: str) -> str | None:
    """The best checkpoint if one was chosen, else the newest; None if none was kept."""
    best = f"{model_run}/checkpoints/{BEST_FILE}"
    # Their names hold the step.
    steps = tf.io.gfile.glob(f"{model_run}/checkpoints/step-*")
    return best if tf.io.gfile.exists(best) else max(steps, default=None)

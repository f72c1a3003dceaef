"""What a run did, what led to a model, and how two runs differ, as values for JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.saved_model import IDENTITY
from data.settings_file import read_settings
from pipeline.runs.store import Artifact, Run, Step

# Also named in components/model_card, which takes seconds to import.
_FACTS_FILE = "facts.json"
_DONE = ("complete", "cached")
_AT_WORK = ("running", "new")


def summary(run: Run) -> dict:
    """`number`, `id`, `name`, `started`, `preset`, `state`, `mAP`, `blessed` and `pushed` of a run.

    What the run did not reach is None. `state` is `complete`, `cached` if every component came from
    the cache, `running`, or names the component that is running, failed or was interrupted.
    """
    card = _output(run, "ModelCard", "card")
    blessing = _output(run, "Evaluator", "blessing")
    pushed = _output(run, "Pusher", "pushed_model")
    return {
        "number": run.number,
        "id": run.id,
        "name": run.name,
        "started": run.started.isoformat(timespec="seconds"),
        "preset": _training(run).get("preset") or run.pipeline.removeprefix("ssd-"),
        "state": _state(run),
        "mAP": card and card.properties.get("mAP"),
        "blessed": blessing and bool(blessing.properties.get("blessed")),
        "pushed": pushed and pushed.properties.get("pushed_version"),
    }


def _state(run: Run) -> str:
    unfinished = [step for step in run.steps if step.state not in _DONE]
    if unfinished:
        step = unfinished[0]
        # A killed run could not record its end, so its record still says that it is running.
        killed = step.state in _AT_WORK and run.running is False
        return f"{step.component} {'interrupted' if killed else step.state}"
    if run.running:
        return "running"
    if run.finished is False:
        return f"interrupted after {run.steps[-1].component}"
    at_work = [step for step in run.steps if not step.is_lookup]
    return "cached" if all(step.state == "cached" for step in at_work) else "complete"


def show(run: Run) -> dict:
    """`summary` and, under `steps`, what each component read and wrote."""
    return summary(run) | {"steps": [_step(step) for step in run.steps]}


def trace(runs: Iterable[Run], wanted: str) -> dict:
    """What led to a model, named by its folder or by a pushed version's folder or number.

    Raises:
        DataError: no run knows the model, or its facts are gone.
    """
    run, model = _find_model(list(runs), wanted)
    facts = _facts(run)
    if facts is None:
        raise DataError(
            f"{wanted}: run {run.number} ({run.id}) has no model card, so the model cannot be "
            "traced. Run again"
        )
    example_gen = run.step("ImportExampleGen")
    pushed = _output(run, "Pusher", "pushed_model")
    # Facts hold paths as of their writing, artifacts hold current ones.
    model_run, base_model, baseline = (
        _output(run, "Trainer", "model_run"),
        _input(run, "Trainer", "base_model"),
        _input(run, "Evaluator", "baseline_model"),
    )
    checkpoint = facts["training"]["checkpoint"]
    if checkpoint and model_run:
        checkpoint = f"{model_run.uri}/checkpoints/{Path(checkpoint).name}"
    return {
        "model": model.uri,
        "pushed": pushed and pushed.properties.get("pushed_destination"),
        "run": summary(run),
        "data": {
            "name": facts.get("origin", {}).get("name"),
            "source": run.data,
            "records": example_gen and example_gen.parameters.get("input_base"),
            **_span(run),
            "left_out": facts.get("origin", {}).get("left_out"),
            "splits": _splits(facts),
        },
        "code_versions": code_versions(run),
        "packages": facts["packages"],
        "configuration": _flat({"trainer": facts["model"]["trainer"]}),
        "base_weights": facts["model"]["trainer"]["backbone_weights"],
        "base_model": base_model.uri if base_model else facts["model"].get("base_model"),
        "starting_weights_sha256": facts["model"].get("starting_weights_sha256"),
        "checkpoint": checkpoint,
        "exported": facts["model"].get("exported"),
        "blessed": facts["blessed"],
        "baseline": baseline.uri if baseline else facts["evaluation"]["baseline_model"],
        "mAP": facts["evaluation"]["map"],
        "AP": {row["name"]: row["ap"]["value"] for row in facts["evaluation"]["classes"]},
        "thresholds": facts["evaluation"]["thresholds"],
        "artifacts": {
            f"{step.component}.{key}": artifact.uri
            for step in run.steps
            for key, artifacts in step.outputs.items()
            for artifact in artifacts
        },
    }


def _span(run: Run) -> dict[str, int | None]:
    """The span and version of the data that a run read; None without spans."""
    examples = _output(run, "ImportExampleGen", "examples")
    known = examples.properties if examples else {}
    return {name: known.get(name) for name in ("span", "version")}


def diff(first: Run, second: Run) -> dict:
    """The differences between two runs, as pairs; AP also with its change.

    `configuration`, `data` and `code` hold only differences; `AP` holds mAP and every class.
    """
    facts = [_facts(run) or {} for run in (first, second)]
    scores = [_scores(known) for known in facts]
    return {
        "runs": [summary(first), summary(second)],
        "configuration": _differences(*_configurations(first, second)),
        "data": _differences(*(_flat(_splits(known)) for known in facts)),
        "code": _differences(code_versions(first), code_versions(second)),
        "AP": {
            name: {
                "values": [part.get(name) for part in scores],
                "change": _change(*(part.get(name) for part in scores)),
            }
            for name in dict.fromkeys([*scores[0], *scores[1]])
        },
    }


def code_versions(run: Run) -> dict[str, str]:
    """The hash of each component's source."""
    return {
        step.component: version
        for step in run.steps
        if (version := step.parameters.get("code_version"))
    }


def _find_model(runs: list[Run], wanted: str) -> tuple[Run, Artifact]:
    """The last run that pushed, made or used the model, and the model."""
    path = str(Path(wanted).resolve())
    for run in reversed(runs):
        model = _output(run, "Trainer", "model")
        pushed = _output(run, "Pusher", "pushed_model")
        if not model:
            continue
        names = {model.uri, f"{model.uri}/Format-Serving"}
        if pushed and pushed.properties.get("pushed_version"):
            names |= {pushed.properties["pushed_version"], pushed.properties["pushed_destination"]}
        if not names.isdisjoint((wanted.rstrip("/"), path)):
            return run, model
    identity = _identity(Path(path))
    for run in reversed(runs if identity else ()):
        model = _output(run, "Trainer", "model")
        if model and identity == (_facts_if_any(run) or {}).get("model"):
            return run, model
    versions = [version for run in runs if (version := summary(run)["pushed"])]
    raise DataError(
        f"{wanted}: no run made or pushed this model. Pushed versions: "
        f"{', '.join(dict.fromkeys(versions)) or 'none'}. For a model of other runs, name their "
        "folder with --output or their database with --metadata"
    )


def _identity(folder: Path) -> dict | None:
    """The identity of an exported model, or of the newest in a folder of versions; else None."""
    versions = [p for p in folder.glob("*") if p.name.isdigit()] if folder.is_dir() else []
    newest = max(versions, key=lambda version: int(version.name), default=folder)
    for place in (folder, folder / "Format-Serving", newest):
        try:
            return json.loads((place / IDENTITY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return None


def _facts_if_any(run: Run) -> dict | None:
    try:
        return _facts(run)
    except DataError:  # its files were deleted
        return None


def _facts(run: Run) -> dict | None:
    """The facts of the run's model card; None if the run has none."""
    card = _output(run, "ModelCard", "card")
    if card is None:
        return None
    path = f"{card.uri}/{_FACTS_FILE}"
    try:
        return json.loads(_read(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: the facts of run {run.number} cannot be read ({error}). Run again with "
            "--from ModelCard"
        ) from error


def _read(path: str) -> str:
    if "://" not in path:
        return Path(path).read_text(encoding="utf-8")
    import tensorflow as tf  # takes seconds, so only for object stores

    try:
        with tf.io.gfile.GFile(path, "r") as file:
            return file.read()
    except tf.errors.OpError as error:
        raise OSError(str(error)) from error


def _output(run: Run, component: str, key: str) -> Artifact | None:
    step = run.step(component)
    return step.output(key) if step else None


def _input(run: Run, component: str, key: str) -> Artifact | None:
    step = run.step(component)
    return next(iter(step.inputs.get(key, [])), None) if step else None


def _step(step: Step) -> dict:
    def named(side: dict[str, list[Artifact]]) -> dict[str, list[dict]]:
        return {
            key: [{"id": a.id, "type": a.type, "uri": a.uri} for a in artifacts]
            for key, artifacts in side.items()
        }

    return {
        "component": step.component,
        "state": step.state,
        "seconds": step.seconds,
        "inputs": named(step.inputs),
        "outputs": named(step.outputs),
    }


def _custom_config(step: Step | None) -> dict:
    text = step.parameters.get("custom_config") if step else None
    return (json.loads(text) or {}) if text else {}


def _training(run: Run) -> dict:
    return _custom_config(run.step("Trainer"))


def _splits(facts: dict) -> dict:
    """Counts and fingerprint of each split, and the ids of pictures left out of training."""
    fingerprints = facts.get("fingerprints", {})
    return {
        name: {
            "pictures": split["pictures"],
            "objects": split["objects"],
            "left_out": split.get("left_out", []),
            "fingerprint": fingerprints.get(name),
        }
        for name, split in facts.get("data", {}).get("splits", {}).items()
    }


def _configurations(*runs: Run) -> list[dict]:
    """Every setting of each run, by its dotted name as in `--set`."""
    files = [run.config for run in runs if run.config]
    if len(files) == len(runs):
        return [
            _flat(read_settings(file)[0]) | {"classes": _training(run).get("classes")}
            for file, run in zip(files, runs, strict=True)
        ]
    return [_recorded(run) for run in runs]


def _recorded(run: Run) -> dict:
    """The part of a run's configuration that ML Metadata holds."""
    training = _training(run)
    settings = {name: training.get(name) for name in ("preset", "trainer", "classes")}
    evaluator = run.step("Evaluator")
    if evaluator:
        config = json.loads(evaluator.parameters.get("eval_config") or "{}")
        settings["evaluator"] = {
            "slices": config.get("slicing_specs"),
            "options": config.get("options"),
            "thresholds": [
                spec.get("per_slice_thresholds") for spec in config.get("metrics_specs", [])
            ],
        }
    return _flat(settings)


def _flat(value: dict, prefix: str = "") -> dict:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(item, f"{name}.") if isinstance(item, dict) else {name: item}
    return flat


def _scores(facts: dict) -> dict[str, float | None]:
    if not facts:
        return {}
    evaluation = facts["evaluation"]
    classes = {row["name"]: row["ap"]["value"] for row in evaluation["classes"]}
    return {"mAP": evaluation["map"]["value"], **classes}


def _change(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else second - first


def _differences(first: dict, second: dict) -> dict[str, list]:
    return {
        key: [first.get(key), second.get(key)]
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    }

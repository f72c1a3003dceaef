"""A model's facts and card."""

import json
import math
import re

import pytest
import tensorflow as tf

from components.evaluation import Score, read_evaluation
from components.model_card.card import card_markdown, write_model_card
from components.model_card.facts import gather_facts
from components.model_card.scores import gather_scores
from data.errors import DataError
from metrics import voc
from metrics.score_thresholds import best_f1, counts_above
from tests.components.conftest import write_records
from tests.components.tfma_replay import CLASSES, PICTURES, WEAK, accumulate


def test_scores_equal_the_metrics_for_candidate_and_baseline(model_facts):
    evaluation = model_facts["evaluation"]
    now, before = (voc.evaluate(accumulate(PICTURES, bound)) for bound in (0.0, WEAK))
    assert evaluation["map"]["value"] == pytest.approx(now.map_11_point)
    assert evaluation["map"]["baseline"]["value"] == pytest.approx(before.map_11_point)
    change = now.map_11_point - before.map_11_point
    assert evaluation["map"]["change"]["value"] == pytest.approx(change)
    assert evaluation["map"]["low"] is None, "no interval was computed"
    assert [entry["name"] for entry in evaluation["classes"]] == list(CLASSES)
    for entry in evaluation["classes"][:3]:
        row = now.classes[entry["name"]]
        assert entry["ap"]["value"] == pytest.approx(row.ap_11_point)
        assert entry["ap_area"]["baseline"]["value"] == pytest.approx(
            before.classes[entry["name"]].ap_area
        )
        highest = max((p for p, r in zip(row.precision, row.recall, strict=True) if r >= 0.3))
        assert entry["curve"][30] == pytest.approx(highest, abs=1e-5)
        assert len(entry["baseline_curve"]) == 101


def test_a_class_without_objects_is_undefined_and_not_nan(model_facts):
    ghost = model_facts["evaluation"]["classes"][3]
    assert (ghost["ap"]["value"], ghost["curve"]) == (None, None)
    json.dumps(model_facts, allow_nan=False)


def test_slices_of_objects_and_pictures(model_facts):
    slices = {entry["name"]: entry["map"]["value"] for entry in model_facts["evaluation"]["slices"]}
    assert {"truncated=yes", "size=large", "size=many", "size=few"} <= slices.keys()
    many = [picture for picture in PICTURES if len(picture[2]) > 1]
    assert slices["size=many"] == pytest.approx(voc.evaluate(accumulate(many)).map_11_point)


def test_every_bound_is_listed_with_its_outcome(model_facts):
    bounds = {entry["metric"]: entry for entry in model_facts["evaluation"]["thresholds"]}
    assert bounds["mAP"] | {"measured": None} == {
        "metric": "mAP",
        "slice": "",
        "bound": "≥ 0.2",
        "measured": None,
        "ok": True,
        "why": "",
    }
    assert bounds["AP/cat"]["ok"] is False
    assert (bounds["AP/ghost"]["ok"], bounds["AP/ghost"]["why"]) == (
        False,
        "undefined without objects",
    )
    change = bounds["change of mAP, 0 if not significant"]
    assert (change["ok"], change["bound"]) == (True, "≥ -0.01")


def test_facts_are_gathered_from_the_components_folders(replayed, tmp_path):
    write_records(tmp_path / "records")
    counts = {"pictures": 204, "objects": 900}
    gate = {"splits": {"train": counts, "test": counts}, "excluded_records": ["0007"]}
    for name, file, content in (
        ("model", "assets.extra/model.json", {"classes": ["cat"]}),
        ("model_run", "summary.json", {"losses": None}),
        ("gate", "data_gate.json", gate),
        ("examples", "origin.json", {"name": "pets", "left_out": ""}),
        ("blessing", "BLESSED", ""),
        ("model_run", "checkpoints/step-00000002.npz", ""),
        ("model_run", "checkpoints/step-00000010.npz", ""),
    ):
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    names = ("examples", "model", "model_run", "gate", "blessing")
    folders = {name: str(tmp_path / name) for name in names}
    folders["evaluation"] = str(replayed / "evaluation")
    facts = gather_facts(**folders, splits={"test": str(tmp_path / "records")})
    assert facts["blessed"] is True
    assert facts["origin"] == {"name": "pets", "left_out": ""}
    thresholds = {row["name"]: row["score_threshold"] for row in facts["evaluation"]["classes"]}
    rows = voc.evaluate(accumulate(PICTURES)).classes
    assert thresholds.pop("ghost") is None, "it has no objects"
    assert thresholds == {n: best_f1(counts_above(rows[n]))["threshold"] for n in thresholds}
    assert len(set(thresholds.values())) > 1
    assert facts["training"]["checkpoint"].endswith("step-00000010.npz")
    assert facts["data"]["splits"] == {
        "train": {**counts, "pictures": 203, "left_out": ["0007"]},
        "test": counts,
    }
    (tmp_path / "model_run" / "checkpoints" / "best.npz").touch()
    again = gather_facts(**folders, splits={})
    assert again["training"]["checkpoint"].endswith("checkpoints/best.npz")
    assert re.fullmatch("[0-9a-f]{16}", facts["fingerprints"]["test"])
    tf.io.gfile.remove(str(tmp_path / "gate/data_gate.json"))
    with pytest.raises(DataError, match="data_gate.json.*again"):
        gather_facts(**folders, splits={})


def test_a_folder_without_an_evaluation_is_named(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        gather_scores(str(tmp_path))


def test_only_weak_classes_are_called_weak(plain):
    facts = plain()
    for entry, ap in zip(facts["evaluation"]["classes"], (0.85, 0.79, 0.95), strict=False):
        entry["ap"]["value"] = ap
    names = [entry["name"] for entry in facts["evaluation"]["classes"]]
    assert f"the lowest are {names[1]} (0.790)." in card_markdown(facts)
    facts["evaluation"]["classes"][1]["ap"]["value"] = 0.8
    assert "No measured class has an AP below 0.8." in card_markdown(facts)


def test_intervals_are_clipped_for_scores_but_not_for_changes(replayed, monkeypatch):
    def with_wide_intervals(folder):
        found = read_evaluation(folder)
        for part in (found.candidate, found.baseline, found.changes):
            for scores in part.values():
                for name, score in scores.items():
                    scores[name] = Score(score.value, score.value - 1, score.value + 1)
        return found

    monkeypatch.setattr("components.model_card.scores.read_evaluation", with_wide_intervals)
    shown = gather_scores(str(replayed / "evaluation"))["map"]
    assert (shown["low"], shown["high"]) == (0.0, 1.0)
    assert (shown["baseline"]["low"], shown["baseline"]["high"]) == (0.0, 1.0)
    assert shown["change"]["low"] == shown["change"]["value"] - 1 < 0


def test_the_card_shows_verdict_scores_weaknesses_and_data(model_facts, tmp_path):
    write_model_card(model_facts, tmp_path)
    text = (tmp_path / "model_card.md").read_text(encoding="utf-8")
    evaluation = model_facts["evaluation"]
    assert f"**Not blessed**, mAP {evaluation['map']['value']:.3f}" in text
    for entry in evaluation["classes"][:3]:
        assert f"| {entry['name']} | {entry['ap']['value']:.3f} |" in text
    weakest = min(evaluation["classes"][:3], key=lambda entry: entry["ap"]["value"])
    assert f"an AP below 0.8, the lowest are {weakest['name']} (" in text
    assert "no object of ghost" in text
    assert "| test | 24 | 48 | f2 |" in text
    assert "| exported step | 8, the best on the eval split: mAP 0.432 |" in text
    assert "| starting weights | none (hash 0123456789abcdef) |" in text
    assert json.loads((tmp_path / "facts.json").read_text()) == model_facts
    page = (tmp_path / "model_card.html").read_text(encoding="utf-8")
    assert page.count("<table>") == len(re.findall(r"^(\|-+)+\|$", text, re.MULTILINE)) == 5
    assert "<h1>Model card: pets</h1>" in page
    assert "| preset | replay |" in text
    assert "when the data was converted: 2 of 50 pictures: the picture is damaged (2)." in text


def test_numbers_that_json_lacks_are_not_written(plain, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_model_card(plain() | {"blessed": math.nan}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_the_gate_left_out_are_counted(plain):
    facts = plain()
    facts["origin"]["left_out"] = ""
    facts["data"]["splits"]["train"]["left_out"] = ["0007", "0009"]
    text = card_markdown(facts)
    assert "another split has the same picture, 2: 0007, 0009." in text
    assert "was converted" not in text


def test_names_cannot_break_out_of_the_card(plain):
    facts = plain()
    facts["evaluation"]["classes"][0]["name"] = "<script>|x"
    text = card_markdown(facts)
    assert "<script>" not in text
    assert "&lt;script&gt;\\|x" in text


def test_the_card_of_a_first_model_has_no_comparison(plain):
    facts = plain()
    for entry in (facts["evaluation"]["map"], *(c["ap"] for c in facts["evaluation"]["classes"])):
        entry["baseline"] = entry["change"] = None
    facts["evaluation"]["slices"] = []
    text = card_markdown(facts)
    assert "previous model" not in text
    assert "parts of the test split" not in text

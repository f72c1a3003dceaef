"""Evaluates an exported model outside of a run."""

import contextlib
import json

import pytest

from components.evaluator import standalone
from components.evaluator.answers import read_answers
from data.errors import DataError
from data.fields import COMMON
from data.origin import Origin
from metrics import voc
from metrics.detection_files import file_name
from pipeline import evaluate
from pipeline.evaluation_data import Records
from pipeline.evaluation_report import gather
from tests.components import tfma_replay
from tests.components.conftest import write_records
from tests.components.tfma_replay import CLASSES, PICTURES, WEAK, accumulate


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two models, the second in a folder of versions, and records of two splits."""
    folder = tmp_path_factory.mktemp("places")
    tfma_replay.save_model(folder / "good")
    tfma_replay.save_model(folder / "weak" / "7", WEAK)
    for model in ("good", "weak/7"):
        extra = folder / model / "assets.extra"
        extra.mkdir(exist_ok=True)
        identity = {
            "classes": list(CLASSES),
            "preset": model,
            "code_version": "c0de",
            "anchors_hash": "abcd",
            "trainer": {
                "detector": "none",
                "anchors": "paper",
                "backbone_weights": "none",
                "steps": 10,
            },
        }
        (extra / "model.json").write_text(json.dumps(identity))
    (folder / "records").mkdir()
    for split in ("train", "test"):
        write_records(folder / "records" / split)
    (folder / "records" / "train" / "data_tfrecord-00001-of-00002.gz").unlink()
    return folder


@pytest.fixture(scope="module")
def evaluated(places):
    """Runs the command line with a baseline; returns the folder of results."""
    output = places / "results"
    arguments = ("--model", places / "good", "--baseline", places / "weak")
    status = evaluate.main(
        [
            *map(str, arguments),
            *("--data", str(places / "records"), "--output", str(output)),
            *("--format", "comp4", "--set", "evaluator.confidence_intervals=false"),
        ]
    )
    assert status == 0
    return output


def test_beam_options_are_passed_on_and_pictures_are_marked(places, tmp_path, monkeypatch):
    given = []

    def evaluate_model(*_, beam_args, marks, **__):
        given.append((beam_args, marks))
        raise DataError("stopped")

    @contextlib.contextmanager
    def watch(folder, totals, _):
        given.append((folder, totals))
        yield

    monkeypatch.setattr(standalone, "evaluate_model", evaluate_model)
    monkeypatch.setattr(evaluate, "watch", watch)
    words = ["--model", places / "good", "--data", places / "records", "--output", tmp_path / "out"]
    beam = ["--beam", "multiprocess", "--", "--direct_num_workers=2"]
    assert evaluate.main([*map(str, words), *beam]) == 2
    (watched, totals), (beam_args, marks) = given
    assert "--direct_num_workers=2" in beam_args
    assert watched == marks == tmp_path / "out" / "marks"
    assert totals == {"evaluate": len(PICTURES)}


def test_scores_match_the_metric(evaluated):
    facts = json.loads((evaluated / "facts.json").read_text())
    new, old = (voc.evaluate(accumulate(PICTURES, bound)) for bound in (0.0, WEAK))
    total = facts["evaluation"]["map"]
    assert total["value"] == pytest.approx(new.map_11_point, abs=1e-6)
    assert total["baseline"]["value"] == pytest.approx(old.map_11_point, abs=1e-6)
    assert facts["origin"] == {"name": "records", "left_out": ""}
    assert facts["model"]["preset"] == "good"
    assert facts["evaluation"]["baseline_model"].endswith("/weak/7")
    assert facts["fingerprints"].keys() == facts["data"]["splits"].keys() == {"records, test"}
    assert all(facts["fingerprints"].values())
    assert {row["score_threshold"] for row in facts["evaluation"]["classes"]} > {None}
    assert not (evaluated / "marks").exists()
    (counts,) = facts["data"]["splits"].values()
    assert counts["pictures"] == len(PICTURES)
    assert counts["objects"] == sum(counts["objects_per_class"].values())


def test_the_facts_keep_the_notes_of_a_conversion(places, evaluated):
    evaluation = evaluated / "evaluation"
    answers = read_answers(str(evaluation), list(CLASSES))
    records = Records("pets", (), COMMON, (), CLASSES, Origin("pets", ""), notes=("2 left out",))
    facts = gather(places / "good", None, records, "", evaluation, answers)
    assert facts["data"]["notes"] == ["2 left out"]


def test_the_report_has_no_verdict(evaluated):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert "Evaluated on records, test" in page
    assert "lessed" not in page, "there is no run whose model could be"
    # In the chart of the mAP, and in those of precision and recall.
    assert page.count(">baseline</t") == 1 + 3
    assert "not pushed" not in page


def test_detections_are_written_in_voc_maps_format(evaluated):
    lines = (evaluated / "detections" / file_name("cat")).read_text().splitlines()
    columns = accumulate(PICTURES).columns()
    cats = columns.det_class == CLASSES.index("cat")
    assert len(lines) == cats.sum()
    image_id, score, *edges = lines[0].split()
    row = next(r for r in cats.nonzero()[0] if columns.image_ids[columns.det_image[r]] == image_id)
    ymin, xmin, ymax, xmax = columns.det_box[row]
    assert float(score) == pytest.approx(columns.det_score[row])
    assert list(map(float, edges)) == pytest.approx([xmin + 1, ymin + 1, xmax, ymax], abs=1e-3)


@pytest.mark.slow
def test_one_split_or_all(places, capsys):
    for split, pictures in (("train", len(PICTURES) // 2), ("all", 3 * len(PICTURES) // 2)):
        output = places / split
        arguments = ["--model", places / "good", "--data", places / "records", "--split", split]
        fast = ["--set", "evaluator.confidence_intervals=false"]
        assert evaluate.main([*map(str, arguments), "--output", str(output), *fast]) == 0
        said = capsys.readouterr()
        assert f"AP on records, {split}: {pictures} pictures" in said.out
        assert f"evaluate: {pictures} of {pictures} pictures" in said.err
        assert not (output / "marks").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--data": "nowhere"}, "nowhere: no such folder"),
        ({"--model": "nowhere"}, "nowhere: no such folder"),
        ({"--split": "eval"}, "no TFRecords of the split 'eval', looked for eval/"),
        ({"--output": "records"}, "records: not empty. Name another folder with --output"),
    ],
)
def test_unusable_inputs_are_reported(places, capsys, monkeypatch, change, message):
    monkeypatch.chdir(places)
    given = {"--model": "good", "--data": "records", "--output": "new", **change}
    assert evaluate.main([word for pair in given.items() for word in pair]) == 2
    assert message in capsys.readouterr().err

"""The data of an evaluation outside of a run, and what it prints at its end."""

import json
import re
from types import SimpleNamespace

import pytest
import tensorflow as tf

from data.errors import DataError
from data.fields import COMMON, HIKAPOK
from data.options import IGNORE
from pipeline import evaluate, evaluation_data, evaluation_report
from pipeline.config import load_config
from tests.components.gate_records import record, write


@pytest.fixture
def find(tmp_path):
    """Finds the records of a split for a model of two classes."""
    extra = tmp_path / "model" / "assets.extra"
    extra.mkdir(parents=True)
    (extra / "model.json").write_text(json.dumps({"classes": ["star", "cross"]}))

    def find(folder, split="test", *settings, beam_args=("--runner=X",)):
        config = load_config("sample", settings)
        output = tmp_path / "output"
        return evaluation_data.find_records(
            tmp_path / folder, split, tmp_path / "model", output, config, beam_args
        )

    return find


@pytest.mark.parametrize("fields", [COMMON, HIKAPOK], ids=["common", "hikapok"])
def test_records_are_used_directly(find, tmp_path, monkeypatch, fields):
    example = record("a.jpg", [("star", (0, 0, 1, 1))], b"jpeg", fields)
    for name in ("train/a.gz", "train/b.gz", "test-0.gz"):
        write(tmp_path / "pets" / name, [example])
    (tmp_path / "pets" / "train" / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    found = find("pets/.", "all")
    assert [file.name for file in found.files] == ["a.gz", "b.gz", "test-0.gz"]
    assert (found.name, found.origin.name) == ("pets, all", "pets")
    assert (found.fields, found.classes, found.notes) == (fields, ("star", "cross"), ())
    assert set(found.features) == set(tf.train.Example.FromString(example).features.feature)
    evaluator = found.eval_config(load_config("sample", ["evaluator.min_class_ap=star:0.5"]))
    bounds = evaluator.metrics_specs[0].per_slice_thresholds
    # The preset's bounds for a blessing do not apply; bounds given here do.
    least = {
        name: bounds[name].thresholds[0].threshold.value_threshold.lower_bound.value
        for name in ("mAP", "AP/star")
    }
    assert least == {"mAP": 0, "AP/star": 0.5}
    change = bounds["mAP_significant"].thresholds[0].threshold.change_threshold
    assert change.absolute.value == -1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no record" * 9, "not a TFRecord file"), (b"", "no records in this file")],
)
def test_a_file_without_records_is_reported(find, tmp_path, content, message):
    (tmp_path / "pets" / "test").mkdir(parents=True)
    (tmp_path / "pets" / "test" / "a.tfrecord").write_bytes(content)
    with pytest.raises(DataError, match=f"a.tfrecord: {message}"):
        find("pets")


def test_annotated_pictures_are_converted_for_the_model(find, tmp_path, monkeypatch):
    seen = {}

    def convert(output, options, *, beam_options, console):
        seen.update(output=output, options=options, beam_options=beam_options)
        write(output / "test" / "a.gz", [record("1")])
        return SimpleNamespace(notes=("a note",), lines=lambda: ["test: 1 picture"])

    monkeypatch.setattr(evaluation_data, "find_source", lambda _: SimpleNamespace(convert=convert))
    (tmp_path / "pets").mkdir()
    found = find("pets", "test", "data.pixels_from=0", "data.on_error=skip", "data.classes=emu")
    assert seen["output"] == tmp_path / "output" / "records" == found.files[0].parents[1]
    assert seen["beam_options"] == ("--runner=X",)
    options = seen["options"]
    assert (options.pixels_from, options.on_error) == (0, "skip")
    # Only the model's classes can be measured.
    assert (options.classes, options.other_classes) == (("star", "cross"), IGNORE)
    assert found.notes == ("a note", "test: 1 picture")
    assert found.name == "pets, test"

    def refuse(*_, **__):
        raise DataError("1.xml: invalid box. Leave it out with --on-error skip")

    monkeypatch.setattr(evaluation_data, "find_source", lambda _: SimpleNamespace(convert=refuse))
    with pytest.raises(DataError, match="--set data.on_error=skip"):
        find("pets")


def _score(value, low=None, high=None, baseline=None, change=None):
    score = {"value": value, "low": low, "high": high}
    return score | {"baseline": baseline, "change": change}


def _facts(compared):
    def score(value, *interval):
        change = compared and _score(0.25, 0.125, 0.375)
        return _score(value, *interval, compared and _score(0.5), change)

    return {
        "evaluation": {
            "map": score(0.75, 0.5, 0.875),
            "classes": [
                {"name": "star", "ap": score(0.75, 0.5, 0.875), "score_threshold": 0.456},
                {"name": "emu", "ap": _score(None), "score_threshold": None},
            ],
        },
        "data": {
            "splits": {
                "pets, test": {
                    "pictures": 1234,
                    "objects": 5678,
                    "objects_per_class": {"star": 5678, "emu": 0},
                }
            },
            "notes": ["[1] a note"],
        },
    }


@pytest.mark.parametrize("compared", [False, True])
def test_the_table_shows_scores_counts_and_changes(capsys, compared):
    evaluation_report.print_outcome(_facts(compared or None))
    text = capsys.readouterr().out
    rows = [re.findall(r"[^\s│┃]+(?: [^\s│┃]+)*", line) for line in text.splitlines()]
    change = ["+0.2500"] if compared else []
    assert "  [1] a note" in text
    assert "AP on pets, test: 1,234 pictures (" in text
    assert ["star", "5,678", "0.7500", "0.5000 - 0.8750", "0.46", *change] in rows
    assert ["emu", "0", "-"] in rows
    assert ["mAP", "5,678", "0.7500", "0.5000 - 0.8750", *change] in rows
    line = "change:     +0.2500 mAP against the baseline, 95 % interval +0.1250 to +0.3750"
    assert (line in text) == ("change" in text) == compared


@pytest.fixture
def main(monkeypatch, tmp_path, capsys):
    """Runs the command line; returns the arguments of `evaluate` and the output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()

    def main(*options):
        seen = {}

        def run(model, data, output, **named):
            seen.update(model=str(model), data=str(data), output=str(output), **named)
            return evaluate.Outcome(output, {})

        monkeypatch.setattr(evaluate, "evaluate", run)
        monkeypatch.setattr(evaluation_report, "print_outcome", lambda _: print("table"))
        monkeypatch.setattr(evaluation_report, "write_comp4", lambda folder, _: folder / "found")
        assert evaluate.main(["--model", "m", *options]) == 0
        return seen, capsys.readouterr().out

    return main


def test_the_options_reach_the_evaluation(main, tmp_path, monkeypatch):
    seen, out = main("--data", "pets")
    assert (seen["model"], seen["data"], seen["output"]) == ("m", "pets", "evaluations/pets-test")
    assert (seen["split"], seen["baseline"]) == ("test", None)
    assert out == "table\nreport:     evaluations/pets-test/report.html\n"
    monkeypatch.chdir(tmp_path / "pets")
    assert main("--data", ".", "--split", "all")[0]["output"] == "evaluations/pets-all"
    options = ("--split", "eval", "--output", "o", "--baseline", "b", "--format", "comp4")
    seen, out = main("--data", ".", *options, "--set", "evaluator.coco_metrics=true")
    assert (seen["split"], seen["output"], str(seen["baseline"])) == ("eval", "o", "b")
    assert seen["config"].evaluator.coco_metrics
    assert out == "table\ndetections: o/found\nreport:     o/report.html\n"

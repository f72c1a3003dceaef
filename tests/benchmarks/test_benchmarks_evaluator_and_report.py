"""The benchmark measures what it claims to; speed is not tested."""

import json
import multiprocessing
from types import SimpleNamespace

import pytest
import tensorflow as tf

from benchmarks import evaluator_and_report, serving_models
from benchmarks.side_by_side import Measured
from components.evaluator import answers, component, standalone
from data.fields import COMMON
from data.record_folder import read_records
from pipeline import evaluation_report

_PICTURES = 6


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder from `_prepare`, with a fake model."""

    def export(preset, num_classes, folder, picture):
        (folder / "assets.extra").mkdir(parents=True)
        (folder / "assets.extra" / "model.json").write_text("{}")

    monkeypatch.setattr(serving_models, "export_untrained", export)
    evaluator_and_report._prepare(tmp_path, _PICTURES)
    return tmp_path


@pytest.fixture
def reports(monkeypatch):
    """The evaluations reported; a fake Evaluator keeps answers as the real one would."""

    def evaluate_model(model, records, config, output):
        with component.answers_kept_in(str(output)):
            kept = answers._destination.get()
        if kept:
            (output / "answers").mkdir(parents=True)
            (output / "answers" / "pictures").touch()

    reported = []
    monkeypatch.setattr(standalone, "evaluate_model", evaluate_model)
    # `alone` replaces it permanently, in its own process.
    monkeypatch.setattr(component, "answers_kept_in", component.answers_kept_in)
    monkeypatch.setattr(answers, "read_answers", lambda evaluation, classes: evaluation)
    monkeypatch.setattr(evaluation_report, "gather", lambda *given: given[-1])
    monkeypatch.setattr(evaluation_report, "write_report", lambda *given: reported.append(given))
    return reported


def test_each_drawn_picture_is_one_record_with_objects(place):
    files = sorted((place / "records").iterdir())
    assert len(files) > 1
    examples = [
        tf.train.Example.FromString(record.numpy()).features.feature
        for file in files
        for record in read_records(str(file))
    ]
    ids = [example[COMMON.source_id].bytes_list.value[0] for example in examples]
    assert len(set(ids)) == len(ids) == _PICTURES
    for example in examples:
        sides = (COMMON.ymin, COMMON.xmin, COMMON.ymax, COMMON.xmax)
        ymin, xmin, ymax, xmax = (example[side].float_list.value for side in sides)
        assert min(*ymin, *xmin) >= 0 and max(*ymax, *xmax) <= 1
        assert len(example[COMMON.text].bytes_list.value) == len(ymin) > 0


def test_only_with_report_writes_a_report(place, reports):
    evaluator_and_report.with_report(place)()
    assert len(reports) == 1
    evaluator_and_report.alone(place)()
    assert len(reports) == 1


def test_alone_fails_if_answers_are_kept(place, reports):
    action = evaluator_and_report.alone(place)
    component.answers_kept_in = answers.answers_kept_in
    with pytest.raises(RuntimeError, match="answers are kept"):
        action()


@pytest.mark.parametrize(("both", "status"), [(11.0, 0), (12.0, 1)])
def test_the_bound_is_on_the_ratio(both, status, monkeypatch, tmp_path):
    process = SimpleNamespace(start=lambda: None, join=lambda: None, exitcode=0)
    context = SimpleNamespace(Process=lambda **given: process)
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: context)

    def measure(tasks, rounds):
        seconds = {evaluator_and_report.alone: 10.0, evaluator_and_report.with_report: both}
        return {
            name: Measured([seconds[task.prepare]], [seconds[task.prepare]])
            for name, task in tasks.items()
        }

    monkeypatch.setattr(evaluator_and_report, "measure", measure)
    numbers = tmp_path / "numbers.json"
    monkeypatch.setattr("sys.argv", ["evaluator_and_report", "--json", str(numbers)])
    assert evaluator_and_report.main() == status
    bounds = json.loads(numbers.read_text())["bounds"]
    assert [bound["value"] for bound in bounds] == [both / 10, both / 10]

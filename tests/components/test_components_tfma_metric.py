"""The TFMA metric on records and a SavedModel, compared with a plain evaluation."""

import math

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from scipy import stats
from tensorflow_model_analysis.proto import config_pb2

from components.evaluation import OVERALL, read_evaluation
from components.mean_average_precision import metric_names, picture_slices, tfma_metric
from data.beam_runner import IN_PROCESS, beam_arguments
from data.errors import find_data_error
from data.fields import COMMON, HIKAPOK
from metrics import coco, object_slices
from metrics.matched import match
from metrics.voc import VocResult, evaluate, score_classes
from tests.components.tfma_replay import (
    CLASSES,
    PICTURES,
    WEAK,
    accumulate,
    eval_config,
    pictures,
    run,
    save_model,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "candidate": save_model(folder / "candidate"),
        "baseline": save_model(folder / "baseline", score_bound=WEAK),
    }


def voc_values(accumulator):
    """mAP and AP of each class by metric, computed without TFMA."""
    result = evaluate(accumulator)
    values = {"mAP": result.map_11_point, "mAP_area": result.map_area}
    for name, row in result.classes.items():
        values |= {f"AP/{name}": row.ap_11_point, f"AP_area/{name}": row.ap_area}
    return values


def values_of(accumulator):
    """All VOC metrics."""
    values = voc_values(accumulator)
    for name in object_slices.NAMES:
        matched = match(accumulator.columns(), len(CLASSES), 0.5, [name])
        rows = score_classes(matched, len(CLASSES), 1)
        part = VocResult({kind: row for kind, (_, row) in zip(CLASSES, rows, strict=True)})
        values[f"mAP/{name}"] = part.map_11_point
    return values


def assert_same(scores, values):
    found = {name: scores[name].value for name in values}
    assert found == pytest.approx(values, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    "beam_args",
    [
        pytest.param(IN_PROCESS, id="one process"),
        pytest.param(
            beam_arguments("multiprocess", ["--direct_num_workers=2"]),
            id="two workers",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_evaluation_equals_the_plain_functions(tmp_path, models, beam_args):
    metric = tfma_metric.metric_config(CLASSES, COMMON, with_coco=True)
    config = eval_config(metric, baseline=True, slices=("size", "objects"))
    extractors = picture_slices.custom_extractors
    folder = run(tmp_path, models, config, extractors=extractors, beam_args=beam_args)
    evaluation = read_evaluation(folder)
    new, old = accumulate(PICTURES), accumulate(PICTURES, WEAK)
    candidate = evaluation.candidate[OVERALL]
    assert_same(candidate, values_of(new))
    assert_same(evaluation.baseline[OVERALL], values_of(old))
    difference = evaluate(new).map_11_point - evaluate(old).map_11_point
    for name in (metric_names.MAP, metric_names.SIGNIFICANT):
        assert evaluation.changes[OVERALL][name].value == pytest.approx(difference, abs=1e-6)

    expected = coco.evaluate(new)
    assert len(metric_names.COCO_NAMES) == 12
    twelve = {f"coco/{name}": getattr(expected, name) for name in metric_names.COCO_NAMES}
    per_class = {f"coco/ap/{name}": ap for name, ap in expected.class_ap.items()}
    assert_same(candidate, twelve | per_class)

    many = [picture for picture in PICTURES if len(picture[2]) > 1]
    assert_same(evaluation.candidate["size=many"], values_of(accumulate(many)))
    assert_same(evaluation.candidate["objects=2-4"], values_of(accumulate(many)))
    assert math.isnan(evaluation.candidate["objects=0"]["mAP"].value)

    cat = evaluate(new).classes["cat"]
    result = tfma.load_eval_result(str(folder), model_name="candidate")
    (metrics,) = [metrics for key, metrics in result.slicing_metrics if key == ()]
    stored = metrics[""][""]["precision_at_recall/cat"]["arrayValue"]["float64Values"]
    best = [cat.precision[cat.recall >= recall] for recall in metric_names.CURVE_RECALLS]
    np.testing.assert_allclose(stored, [max(above, default=0) for above in best], atol=1e-12)

    (plots,) = [plots for key, plots in result.plots if key == ()]
    matrices = plots[""]["classId:1"]["confusionMatrixAtThresholds"]["matrices"]
    at_half = min(matrices, key=lambda matrix: abs(matrix.get("threshold", 0.0) - 0.5))
    above = cat.hits[cat.scores > 0.5]
    assert at_half["truePositives"] == above.sum()
    assert at_half["falsePositives"] == (~above).sum()
    assert at_half["falseNegatives"] == cat.positives - above.sum()


def test_records_of_hikapok_and_no_coco(tmp_path, models, monkeypatch):
    monkeypatch.setattr(coco, "evaluate", None)  # would fail if it were called
    metric = tfma_metric.metric_config(CLASSES, HIKAPOK)
    only = {"candidate": models["candidate"]}
    folder = run(tmp_path, only, eval_config(metric), fields=HIKAPOK, with_schema=True)
    evaluation = read_evaluation(folder)
    expected = values_of(accumulate(PICTURES))
    unknown = {name: expected.pop(name) for name in ("mAP/occluded=yes", "mAP/occluded=no")}
    assert_same(evaluation.candidate[OVERALL], expected)
    assert not {*unknown, *metric_names.COCO_NAMES.values()} & set(evaluation.candidate[OVERALL])
    assert (evaluation.baseline, evaluation.changes) == ({}, {})


def least(value):
    return config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": value})
    )


def least_change(value):
    return config_pb2.MetricThreshold(
        change_threshold=config_pb2.GenericChangeThreshold(
            direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": value}
        )
    )


def test_bounds_just_below_pass_and_just_above_fail(tmp_path, models):
    new, old = (evaluate(accumulate(PICTURES, bound)) for bound in (0.0, WEAK))
    change = new.map_11_point - old.map_11_point
    bounds = {
        "mAP": least(new.map_11_point - 1e-3),
        "AP/cat": least(new.classes["cat"].ap_11_point - 1e-3),
        "AP/dog": least(new.classes["dog"].ap_11_point + 1e-3),
        "AP/ghost": least(0.0),
        "mAP_area": least_change(new.map_area - old.map_area - 1e-3),
        metric_names.SIGNIFICANT: least_change(change + 1e-3),
    }
    metric = tfma_metric.metric_config(CLASSES, COMMON)
    # In a slice without objects every AP is undefined: the bounds must not apply there.
    config = eval_config(metric, bounds, baseline=True, slices=("size",))
    folder = run(tmp_path, models, config)
    assert not tfma.load_validation_result(str(folder)).validation_ok
    dog, ghost, changed = sorted(read_evaluation(folder).failures)
    value = new.classes["dog"].ap_11_point
    assert dog == f"AP/dog is {value:.4f}, below the minimum of {value + 1e-3:g}"
    assert ghost == "AP/ghost is undefined without objects; the minimum is 0"
    assert changed == f"mAP changed by {change:+.4f}, below the minimum of {change + 1e-3:+g}"


MANY = pictures(240)


def plain_bootstrap(samples=200):
    """Values of both models on the same pictures, drawn with replacement."""
    random = np.random.default_rng(1)
    for _ in range(samples):
        drawn = [MANY[row] for row in random.integers(0, len(MANY), len(MANY))]
        accumulators = [accumulate(drawn, bound) for bound in (0.0, WEAK)]
        yield [voc_values(a) | {"coco/ap50": coco.evaluate(a).ap50} for a in accumulators]


def test_intervals_agree_with_a_plain_bootstrap(tmp_path, models):
    metric = tfma_metric.metric_config(CLASSES, COMMON, with_coco=True, with_intervals=True)
    bounds = {metric_names.SIGNIFICANT: least_change(0.0), "mAP": least(0.99)}
    config = eval_config(metric, bounds, baseline=True)
    evaluation = read_evaluation(run(tmp_path, models, config, pictures=MANY))
    assert any(text.startswith("mAP is 0.") for text in evaluation.failures)
    samples = list(plain_bootstrap())
    # 20 samples determine a standard error to 16 %; Student's factor depends on their number.
    half = 2 * stats.t.ppf(0.975, 19)
    whole = voc_values(accumulate(MANY))
    whole |= {"coco/ap50": coco.evaluate(accumulate(MANY)).ap50}
    names = ["mAP", "mAP_area", "coco/ap50", *(f"AP/{name}" for name in CLASSES[:3])]
    for name in names:
        found = evaluation.candidate[OVERALL][name]
        expected = np.std([new[name] for new, _ in samples], ddof=1)
        assert 0.4 < (found.upper - found.lower) / half / expected < 1.8, name
        assert found.value - found.lower == pytest.approx(found.upper - found.value)
        assert found.value == pytest.approx(whole[name], abs=1e-6)
    change = evaluation.changes[OVERALL]["mAP"]
    paired = np.std([new["mAP"] - old["mAP"] for new, old in samples], ddof=1)
    assert 0.4 < (change.upper - change.lower) / half / paired < 1.8
    # Both models see the same samples, so their difference varies less than either.
    assert change.upper - change.lower < 0.8 * (
        evaluation.candidate[OVERALL]["mAP"].upper - evaluation.candidate[OVERALL]["mAP"].lower
    )
    counted = evaluation.changes[OVERALL][metric_names.SIGNIFICANT].value
    assert counted == (0.0 if change.lower <= 0 <= change.upper else change.value)


def distribution(value, spread):
    return tfma.types.ValueWithTDistribution(
        sample_mean=value,
        sample_standard_deviation=spread,
        sample_degrees_of_freedom=19,
        unsampled_value=value,
    )


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        (distribution(-0.05, 0.1), 0.0),  # noise does not block
        (distribution(0.05, 0.1), 0.0),  # nor bless
        (distribution(-0.05, 0.01), -0.05),
        (distribution(0.05, 0.01), 0.05),
        (distribution(0.05, 0.05 / stats.t.ppf(0.975, 19) * 1.001), 0.0),  # 0 just inside
        (distribution(0.05, 0.05 / stats.t.ppf(0.975, 19) * 0.999), 0.05),  # 0 just outside
        (-0.001, -0.001),  # no interval was asked for
    ],
)
def test_a_change_that_chance_explains_counts_as_zero(change, counted):
    assert tfma_metric.significant_change(change) == counted


def test_a_workers_error_is_found_behind_beams(tmp_path, models):
    broken = [list(picture) for picture in PICTURES[:6]]
    image_id, scores = broken[1][0], broken[1][5]
    assert len(scores)
    broken[1][5] = np.append(np.float32(1.5), scores[1:])
    config = eval_config(tfma_metric.metric_config(CLASSES, COMMON))
    with pytest.raises(Exception) as caught:
        run(tmp_path, {"candidate": models["candidate"]}, config, pictures=broken)
    message = str(find_data_error(caught.value))
    assert message.startswith(f"{image_id}: detection 0: score 1.5 is not in [0, 1]")
    assert "while running" not in message

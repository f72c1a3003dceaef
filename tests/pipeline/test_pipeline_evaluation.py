"""The evaluation's configuration: bounds are where TFMA looks for them, mistakes are reported."""

import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_specs
from tensorflow_model_analysis.proto import config_pb2

from data.errors import DataError
from data.fields import COMMON, HIKAPOK
from pipeline.config import EvaluatorConfig, load_config
from pipeline.evaluation import evaluation_config

CLASSES = ("cat", "dog")
FEATURES = ("image/format", "image/object/class/text")


def config_of(*settings, fields=COMMON):
    evaluator = load_config("ssd300-voc", [f"evaluator.{text}" for text in settings]).evaluator
    return evaluation_config(evaluator, CLASSES, fields, FEATURES)


def bounds_of(config):
    """(metric, is a change, slice) -> lower bound, as resolved by TFMA itself."""
    found = {}
    resolved = metric_specs.metric_thresholds_from_metrics_specs(config.metrics_specs, config)
    for key, pairs in resolved.items():
        for spec, threshold in pairs:
            least = (
                threshold.absolute.value
                if isinstance(threshold, config_pb2.GenericChangeThreshold)
                else threshold.lower_bound.value
            )
            found[(key.name, key.is_diff, *sorted(spec.feature_values.items()))] = least
    return found


def test_the_default_bounds_apply_to_the_whole_split():
    config = config_of()
    assert bounds_of(config) == {("mAP", False): 0.0, ("mAP_significant", True): -0.01}
    assert list(config.slicing_specs) == [config_pb2.SlicingSpec()]


def test_every_configured_bound_reaches_tfma():
    config = config_of(
        "min_map=0.5",
        "min_map_change=0.02",
        "min_class_ap=dog:0.6,cat:0.25",
        "min_slice_map=size=small:0.125,objects=2-4:0.75,image/format=jpeg:0.5",
        "slices=picture_size",
    )
    assert bounds_of(config) == {
        ("mAP", False): 0.5,
        ("mAP_significant", True): 0.02,
        ("AP/dog", False): 0.6,
        ("AP/cat", False): 0.25,
        ("mAP/size=small", False): 0.125,
        ("mAP", False, ("objects", "2-4")): 0.75,
        ("mAP", False, ("image/format", "jpeg")): 0.5,
    }
    sliced = [list(spec.feature_keys) for spec in config.slicing_specs]
    assert sliced == [[], ["picture_size"], ["objects"], ["image/format"]]


def test_without_a_baseline_only_the_bound_on_the_change_is_dropped():
    config = tfma.utils.update_eval_config_with_defaults(
        config_of("min_class_ap=dog:0.5"), has_baseline=False, rubber_stamp=True
    )
    assert bounds_of(config) == {("mAP", False): 0.0, ("AP/dog", False): 0.5}


def test_intervals_and_coco_metrics_can_be_switched():
    def metric(*settings):
        return config_of(*settings).metrics_specs[0].metrics[0].config

    assert '"with_intervals": true' in metric()
    assert '"with_intervals": false' in metric("confidence_intervals=false")
    assert '"with_coco": false' in metric()
    assert '"with_coco": true' in metric("coco_metrics=true")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("min_class_ap=dgo:0.5", "evaluator.min_class_ap: 'dgo' is unknown; did you mean dog"),
        ("min_slice_map=size=smal:0.5", "evaluator.min_slice_map: .*did you mean size=small"),
        ("min_slice_map=objects=many:0.5", "min_slice_map: objects: 'many' is unknown; .*10"),
        ("min_slice_map=colour=red:0.5", "evaluator.slices: 'colour' is unknown"),
        ("min_slice_map=small:0.5", "write slice=value:mAP, as in size=small:0.2"),
        ("slices=object", "evaluator.slices: 'object' is unknown; did you mean objects"),
    ],
)
def test_unknown_names_are_reported(setting, message):
    with pytest.raises(DataError, match=message):
        config_of(setting)


def test_records_without_a_flag_cannot_be_sliced_by_it():
    config_of("min_slice_map=occluded=yes:0.1")
    with pytest.raises(DataError, match="'occluded' is unknown"):
        config_of("min_slice_map=occluded=yes:0.1", fields=HIKAPOK)


@pytest.mark.parametrize(
    "setting",
    [
        {"min_class_ap": ("dog",)},
        {"min_class_ap": ("dog:high",)},
        {"min_class_ap": ("dog:1.5",)},
        {"min_class_ap": ("dog:nan",)},
        {"min_slice_map": (":0.5",)},
        {"min_map_change": 2.0},
        {"min_map_change": float("nan")},
        {"min_map": -0.1},
    ],
)
def test_values_are_checked_when_the_configuration_is_built(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        EvaluatorConfig(**setting)

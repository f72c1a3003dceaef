"""What the Evaluator measures and what a model needs to be blessed, as TFMA's configuration."""

from collections.abc import Iterable, Mapping

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.mean_average_precision import metric_names, picture_slices, tfma_metric
from data.errors import DataError, did_you_mean
from data.fields import Fields
from data.saved_model import EXAMPLES_SIGNATURE
from pipeline.config import EvaluatorConfig, parse_bounds

EXTRACTORS = picture_slices.__name__

_OVERALL = config_pb2.SlicingSpec()


def evaluation_config(
    config: EvaluatorConfig, classes: Iterable[str], fields: Fields, features: Iterable[str]
) -> config_pb2.EvalConfig:
    """The configured metric, slices, confidence intervals and bounds.

    classes: names in the order of their ids 1..N.
    features: features of the records, by which pictures can be sliced.

    Raises:
        DataError: a bound or a slice names something unknown.
    """
    classes, features = tuple(classes), set(features)
    metric = tfma_metric.metric_config(
        classes,
        fields,
        with_coco=config.coco_metrics,
        with_intervals=config.confidence_intervals,
    )
    object_bounds, picture_bounds = _slice_bounds(config, fields)
    sliced = dict.fromkeys([*config.slices, *(name for name, _ in picture_bounds)])
    for name in sliced:
        _check_known("evaluator.slices", name, features | set(picture_slices.VALUES))
    for name, value in picture_bounds:
        if name in picture_slices.VALUES:
            _check_known(f"evaluator.min_slice_map: {name}", value, picture_slices.VALUES[name])
    class_bounds = parse_bounds(config.min_class_ap)
    for name in class_bounds:
        _check_known("evaluator.min_class_ap", name, classes)

    bounds = {metric_names.MAP: [(_OVERALL, _at_least(config.min_map))]}
    bounds[metric_names.SIGNIFICANT] = [(_OVERALL, _change_at_least(config.min_map_change))]
    for name, least in class_bounds.items():
        bounds[metric_names.ap_name(name)] = [(_OVERALL, _at_least(least))]
    for name, least in object_bounds.items():
        bounds[metric_names.slice_map_name(name)] = [(_OVERALL, _at_least(least))]
    for (name, value), least in picture_bounds.items():
        spec = config_pb2.SlicingSpec(feature_values={name: value})
        bounds[metric_names.MAP].append((spec, _at_least(least)))
    return config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(signature_name=EXAMPLES_SIGNATURE)],
        slicing_specs=[_OVERALL, *(config_pb2.SlicingSpec(feature_keys=[name]) for name in sliced)],
        metrics_specs=[
            config_pb2.MetricsSpec(metrics=[metric], per_slice_thresholds=_per_slice(bounds))
        ],
    )


def _slice_bounds(config: EvaluatorConfig, fields: Fields) -> tuple[Mapping, Mapping]:
    """The bounds on slices of objects, by name, and of pictures, by feature and value."""
    objects, pictures = {}, {}
    own = metric_names.slice_names(fields)
    for name, least in parse_bounds(config.min_slice_map).items():
        kind, equals, value = name.partition("=")
        if not equals:
            raise DataError(
                f"evaluator.min_slice_map: {name!r}: write slice=value:mAP, as in size=small:0.2"
            )
        if any(other.startswith(f"{kind}=") for other in own):
            _check_known("evaluator.min_slice_map", name, own)
            objects[name] = least
        else:
            pictures[kind, value] = least
    return objects, pictures


def _at_least(value: float) -> config_pb2.MetricThreshold:
    return config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": value})
    )


def _change_at_least(value: float) -> config_pb2.MetricThreshold:
    return config_pb2.MetricThreshold(
        change_threshold=config_pb2.GenericChangeThreshold(
            direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": value}
        )
    )


def _per_slice(bounds: Mapping[str, list]) -> dict[str, config_pb2.PerSliceMetricThresholds]:
    return {
        name: config_pb2.PerSliceMetricThresholds(
            thresholds=[
                config_pb2.PerSliceMetricThreshold(slicing_specs=[spec], threshold=threshold)
                for spec, threshold in pairs
            ]
        )
        for name, pairs in bounds.items()
    }


def _check_known(where: str, name: str, known: Iterable[str]) -> None:
    known = sorted(known)
    if name not in known:
        raise DataError(f"{where}: {name!r} is unknown; {did_you_mean(name, known)}")

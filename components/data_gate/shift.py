"""Measures with TFDV how far splits are from each other and from an earlier data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from data.fields import Fields
from data.splits import TRAIN

_Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList

_MEASURES = {
    anomalies_pb2.DriftSkewInfo.Measurement.L_INFTY: "L-infinity distance",
    anomalies_pb2.DriftSkewInfo.Measurement.JENSEN_SHANNON_DIVERGENCE: "Jensen-Shannon divergence",
}


@dataclass(frozen=True)
class Shift:
    """How far a feature of the train split is from the same one in another split or data set."""

    check: str  # skew or drift
    other: str  # what train is compared with; for skew a split's name
    feature: str
    measure: str
    value: float
    limit: float


def measure_shifts(
    statistics: Mapping[str, _Statistics],
    baseline: _Statistics | None,
    fields: Fields,
    max_skew: float,
    max_drift: float,
) -> list[Shift]:
    """Distances of the train split from each other split (skew) and from `baseline` (drift).

    statistics: by split, including `train`.
    baseline: the latest blessed model's train split, if any.
    """
    train = statistics[TRAIN]
    schema = _schema(fields, max_skew, max_drift)
    shifts = []
    for split, other in sorted(statistics.items()):
        if split != TRAIN:
            found = tfdv.validate_statistics(train, schema, serving_statistics=other)
            shifts += _shifts("skew", split, found, max_skew)
    if baseline is not None:
        found = tfdv.validate_statistics(train, schema, previous_statistics=baseline)
        shifts += _shifts("drift", "the latest blessed model's data", found, max_drift)
    return shifts


def _schema(fields: Fields, max_skew: float, max_drift: float) -> schema_pb2.Schema:
    """The features to compare and the measure for each."""
    schema = schema_pb2.Schema()
    kinds = {fields.text: schema_pb2.BYTES}
    kinds |= dict.fromkeys((fields.height, fields.width), schema_pb2.INT)
    kinds |= dict.fromkeys((fields.ymin, fields.xmin, fields.ymax, fields.xmax), schema_pb2.FLOAT)
    for name, kind in kinds.items():
        feature = schema.feature.add(name=name, type=kind)
        for comparator, limit in (
            (feature.skew_comparator, max_skew),
            (feature.drift_comparator, max_drift),
        ):
            if kind == schema_pb2.BYTES:
                comparator.infinity_norm.threshold = limit
            else:
                comparator.jensen_shannon_divergence.threshold = limit
    return schema


def _shifts(check: str, other: str, found: anomalies_pb2.Anomalies, limit: float) -> list[Shift]:
    return [
        Shift(
            check=check,
            other=other,
            feature=".".join(info.path.step),
            measure=_MEASURES[measurement.type],
            value=measurement.value,
            limit=limit,
        )
        for info in found.drift_skew_info
        for measurement in getattr(info, f"{check}_measurements")
    ]

"""Each split's numeric features, from TFDV's statistics."""

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import statistics_pb2


def numeric_features(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, dict]:
    """`min`, `mean` and `max` of each numeric feature by name."""
    (dataset,) = statistics.datasets
    return {
        ".".join(feature.path.step) or feature.name: {
            "min": feature.num_stats.min,
            "mean": feature.num_stats.mean,
            "max": feature.num_stats.max,
        }
        for feature in dataset.features
        if feature.HasField("num_stats")
    }


def read_split(statistics: str, split: str) -> dict[str, dict]:
    """`numeric_features` of a split from a StatisticsGen's output folder."""
    path = f"{statistics}/Split-{split}/FeatureStats.pb"
    return numeric_features(tfdv.load_stats_binary(path))

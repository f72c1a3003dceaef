"""Each split's numeric features, from TFDV's statistics."""

import tensorflow_data_validation as tfdv


def read_split(statistics: str, split: str) -> dict[str, dict]:
    """`min`, `mean` and `max` of each numeric feature by name, from StatisticsGen's output."""
    (dataset,) = tfdv.load_stats_binary(f"{statistics}/Split-{split}/FeatureStats.pb").datasets
    return {
        ".".join(feature.path.step) or feature.name: {
            "min": feature.num_stats.min,
            "mean": feature.num_stats.mean,
            "max": feature.num_stats.max,
        }
        for feature in dataset.features
        if feature.HasField("num_stats")
    }

"""What the data gate decides, as plain functions over TFDV's protos."""

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from data import fields
from data.errors import DataError


def list_anomalies(anomalies: dict[str, anomalies_pb2.Anomalies]) -> list[dict]:
    """One entry (`split`, `feature`, `problem`) for each anomaly of each split."""
    found = []
    for split, proto in sorted(anomalies.items()):
        if proto.HasField("dataset_anomaly_info"):
            info = proto.dataset_anomaly_info
            found.append({"split": split, "feature": "", "problem": info.description})
        for feature, info in sorted(proto.anomaly_info.items()):
            found.append({"split": split, "feature": feature, "problem": info.description})
    return found


def count_objects(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict:
    """`pictures`, `objects` and `objects_per_class` of one split, from its statistics."""
    (dataset,) = statistics.datasets
    features = {".".join(f.path.step) or f.name: f for f in dataset.features}
    text = features[fields.detect(features).text]
    ranks = text.string_stats.rank_histogram.buckets
    return {
        "pictures": int(dataset.num_examples),
        "objects": int(text.string_stats.common_stats.tot_num_values),
        "objects_per_class": {b.label: int(b.sample_count) for b in ranks},
    }


def refuse_anomalies(found: list[dict]) -> None:
    """Raises DataError with a readable list when there are anomalies."""
    if not found:
        return
    lines = [
        f"  {entry['split']}: {entry['feature'] or 'whole split'}: {entry['problem']}"
        for entry in found
    ]
    raise DataError(
        f"the data does not fit its schema, {len(found)} anomalies:\n"
        + "\n".join(lines)
        + "\nMend the data and convert it again, or, if the data is right, change the schema and "
        "give its path with --set data.schema=PATH"
    )

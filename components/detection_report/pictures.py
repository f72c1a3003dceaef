"""Reads the pictures to show from the evaluated split's records."""

from collections.abc import Collection

from components.evaluator.answers import read_features
from data import fields
from data.record_folder import read_records


def encoded_pictures(shards: list[str], wanted: Collection[str]) -> dict[str, bytes]:
    """The encoded pictures with these ids, by id; stops reading once all are found."""
    found: dict[str, bytes] = {}
    if not wanted:
        return found
    for serialised in read_records(shards).as_numpy_iterator():
        features = read_features(serialised)
        names = fields.detect(features)
        ids = (features.get(name) for name in (names.source_id, names.filename) if name)
        image_id = next((values[0].decode() for values in ids if values and values[0]), "")
        if image_id in wanted and image_id not in found:
            (found[image_id],) = features[names.encoded]
            if len(found) == len(set(wanted)):
                break
    return found

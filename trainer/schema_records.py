"""Reads records like the Trainer, without a Transform component."""

from types import SimpleNamespace

from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils

from data.schema import class_names
from trainer.input_pipeline import TransformedRecords
from trainer.preprocessing import preprocessing_fn


class SchemaRecords(TransformedRecords):
    """TransformedRecords from a schema alone, since the transform depends on no data."""

    def __init__(self, schema: schema_pb2.Schema) -> None:
        classes = {"classes": class_names(schema)}
        self.feature_spec = schema_utils.schema_as_feature_spec(schema).feature_spec
        self.graph = SimpleNamespace(transform_fn=lambda raw: preprocessing_fn(raw, classes))

"""Slices of pictures by size and number of objects, which are computed from the record.

TFMA slices only by features of the record, so this adds them as features first: set the Evaluator's
`module_path` to this module.
"""

import json
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.extractors.slice_key_extractor import SLICE_KEY_EXTRACTOR_STAGE_NAME
from tensorflow_model_analysis.proto import config_pb2
from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig

from components.evaluator.answers import answer_extractors
from data.fields import Fields
from metrics.picture_reader import read_ground_truth

OBJECTS = "objects"  # in the picture, including difficult ones
PICTURE_SIZE = "picture_size"

# The minimum number of objects or pixels of each value.
_VALUES = {
    OBJECTS: {0: "0", 1: "1", 2: "2-4", 5: "5-9", 10: "10+"},
    PICTURE_SIZE: {0: "small", 256**2: "medium", 512**2: "large"},
}
VALUES = {name: tuple(values.values()) for name, values in _VALUES.items()}


def slice_values(features: Mapping[str, Any], fields: Fields) -> dict[str, str]:
    """A picture's value of each computed feature."""
    truth = read_ground_truth(features, fields)
    numbers = {OBJECTS: len(truth.classes), PICTURE_SIZE: truth.size_px[0] * truth.size_px[1]}
    return {
        name: next(text for least, text in reversed(_VALUES[name].items()) if number >= least)
        for name, number in numbers.items()
    }


def custom_extractors(
    eval_shared_model: tfma.types.MaybeMultipleEvalSharedModels,
    eval_config: config_pb2.EvalConfig,
    tensor_adapter_config: TensorAdapterConfig,
) -> list:
    """TFX's entry point: TFMA's extractors, with the features added before slicing.

    Our Evaluator's own extractors (`components.evaluator.answers`) come last.
    """
    extractors = tfma.default_extractors(
        eval_shared_model=eval_shared_model,
        eval_config=eval_config,
        tensor_adapter_config=tensor_adapter_config,
    )
    (metric,) = eval_config.metrics_specs[0].metrics
    fields = Fields(**json.loads(metric.config)["fields"])
    stages = [extractor.stage_name for extractor in extractors]
    extractors.insert(
        stages.index(SLICE_KEY_EXTRACTOR_STAGE_NAME),
        tfma.extractors.Extractor("AddPictureSlices", beam.Map(_add_features, fields)),
    )
    return [*extractors, *answer_extractors(fields)]


def _add_features(extracts: tfma.types.Extracts, fields: Fields) -> tfma.types.Extracts:
    features = extracts[tfma.FEATURES_KEY]
    added = {
        name: np.array([value.encode()], object)
        for name, value in slice_values(features, fields).items()
    }
    return {**extracts, tfma.FEATURES_KEY: {**features, **added}}

"""The TFMA metric on single records and answers, in all the forms TFMA delivers."""

import math
import pickle

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.mean_average_precision import picture_slices, tfma_metric
from data.fields import COMMON
from metrics import matched
from metrics.voc import VocResult, score_classes
from tests.metrics.one_picture import answer, record

CLASSES = ("cat", "dog")


class Computation:
    """The metric's computation, reading and combining in one object."""

    def __init__(self, baseline=False, with_coco=False):
        metric = tfma_metric.MeanAveragePrecision(CLASSES, vars(COMMON), with_coco=with_coco)
        models = [config_pb2.ModelSpec(is_baseline=True)] if baseline else []
        (computation,) = metric.computations(
            config_pb2.EvalConfig(model_specs=models), model_names=[""]
        )
        (self._reader,) = computation.preprocessors
        self._combiner = computation.combiner

    def add_input(self, accumulator, inputs):
        (picture,) = self._reader.process(inputs.extracts)
        return self._combiner.add_input(accumulator, pickle.loads(pickle.dumps(picture)))

    def __getattr__(self, name):
        return getattr(self._combiner, name)


def evaluate(accumulator):
    """The VOC score of all objects in a metric's accumulator."""
    whole = matched.unpack([*accumulator.parts, matched.pack(accumulator.single)])
    rows = [row for (row,) in score_classes(whole, len(CLASSES))]
    return VocResult(dict(zip(CLASSES, rows, strict=True)))


def inputs(features, predictions):
    return tfma.metrics.StandardMetricInputs(features=features, predictions=predictions)


def test_any_partition_into_pickled_accumulators_gives_the_same():
    rng = np.random.default_rng(1)
    pictures = []
    for number in range(12):
        start = rng.uniform(0, 0.5, (5, 2))
        boxes = np.hstack([start, start + rng.uniform(0.1, 0.5, (5, 2))]).astype(np.float32)
        scores = rng.choice([0.25, 0.5, 0.75], 5)
        names = rng.choice(CLASSES, 5)
        features = {
            "image/source_id": np.array([f"p{number}".encode()], object),
            "image/height": np.array([200]),
            "image/width": np.array([300]),
            "image/object/class/text": names[:3].astype("S").astype(object),
        }
        edges = np.clip(boxes[:3] + rng.normal(0, 0.01, (3, 4)), 0, 1).T
        for name, column in zip(("ymin", "xmin", "ymax", "xmax"), edges, strict=True):
            features[f"image/object/bbox/{name}"] = column
        pictures.append(inputs(features, answer(boxes, scores, names)))
    fn = Computation()
    outputs = []
    for parts in (1, 3, 7):
        accumulators = [fn.create_accumulator() for _ in range(parts)]
        for index in rng.permutation(len(pictures)):
            part = int(rng.integers(parts))
            accumulators[part] = fn.add_input(accumulators[part], pictures[index])
        stored = [pickle.loads(pickle.dumps(fn.compact(part))) for part in accumulators]
        output = fn.extract_output(fn.merge_accumulators(stored))
        outputs.append({str(key): str(value) for key, value in output.items()})
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(set(outputs[0].values())) > 5


def test_crowds_are_read_from_the_record():
    def crowds(**flags):
        reader = Computation(with_coco=True)._reader
        (picture,) = reader.process(inputs(record(**flags), answer()).extracts)
        return picture.columns.gt_crowd.tolist(), picture.matched.gt_countable[0] & 1

    assert crowds(**{"image/object/is_crowd": np.array([1])}) == ([True], 0)
    assert crowds() == ([False], 1)


ABSENT = ["class/text", "difficult", "bbox/ymin", "bbox/xmin", "bbox/ymax", "bbox/xmax"]


@pytest.mark.parametrize(
    "empty",
    [
        None,
        np.zeros(0, np.float32),
        np.zeros((1, 0), object),
        np.array([None], object),
        tfma.types.SparseTensorValue(np.zeros(0), np.zeros((0, 1), int), np.array([0])),
        tfma.types.RaggedTensorValue(np.zeros(0), [np.array([0])]),
        "left out",
    ],
)
def test_record_without_objects_is_a_picture_without_objects(empty):
    features = record(**{f"image/object/{name}": empty for name in ABSENT})
    if isinstance(empty, str):
        features = {name: features[f"image/{name}"] for name in ("source_id", "height", "width")}
        features = {f"image/{name}": value for name, value in features.items()}
    fn = Computation()
    found = answer([(0.1, 0.1, 0.5, 0.5)], [0.9], ["cat"])
    accumulator = fn.add_input(fn.create_accumulator(), inputs(features, found))
    accumulator = fn.add_input(accumulator, inputs(record(), found))
    row = evaluate(accumulator).classes["cat"]
    assert (row.positives, row.detections, row.hits.sum()) == (1, 2, 1)


@pytest.mark.parametrize("kind", ["dense", "sparse", "ragged"])
def test_all_delivered_shapes_hold_the_same_objects(kind):
    wrap = {
        "dense": lambda array: array.reshape(1, -1),
        "sparse": lambda array: tfma.types.SparseTensorValue(
            array, np.arange(len(array))[:, None], np.array([len(array)])
        ),
        "ragged": lambda array: tfma.types.RaggedTensorValue(array, [np.array([0, len(array)])]),
    }[kind]
    features = {name: wrap(array) for name, array in record().items()}
    fn = Computation()
    found = answer([(0.1, 0.1, 0.5, 0.5)], [0.9], ["cat"])
    accumulator = fn.add_input(fn.create_accumulator(), inputs(features, found))
    assert evaluate(accumulator).map_area == 1.0


def test_record_without_difficult_flags_has_no_difficult_objects():
    fn = Computation()
    accumulator = fn.add_input(
        fn.create_accumulator(), inputs(record(**{"image/object/difficult": None}), answer())
    )
    assert evaluate(accumulator).classes["cat"].positives == 1


def test_baseline_may_know_other_classes():
    """Its cow is dropped, and the dog, unknown to it, is an object it never finds."""
    box = (0.1, 0.1, 0.5, 0.5)
    fn = Computation(baseline=True)
    found = answer([box, box], [0.9, 0.8], ["cow", "cat"])
    truth = record(**{"image/object/class/text": np.array([b"dog"], object)})
    accumulator = fn.add_input(fn.create_accumulator(), inputs(record(), found))
    accumulator = fn.add_input(accumulator, inputs(truth, answer([box], [0.7], ["cow"])))
    classes = evaluate(accumulator).classes
    assert (classes["cat"].ap_area, classes["cat"].detections) == (1.0, 1)
    assert (classes["dog"].ap_area, classes["dog"].detections) == (0.0, 0)


def test_no_detections_at_all_score_zero():
    fn = Computation()
    output = fn.extract_output(fn.add_input(fn.create_accumulator(), inputs(record(), answer())))
    values = {key.name: value for key, value in output.items() if hasattr(key, "is_diff")}
    assert values["mAP"] == values["AP/cat"] == 0.0
    assert math.isnan(values["AP/dog"])  # no dog to find


@pytest.mark.parametrize(
    ("height", "width", "objects", "expected"),
    [
        (255, 257, 0, {"objects": "0", "picture_size": "small"}),
        (256, 256, 1, {"objects": "1", "picture_size": "medium"}),
        (375, 500, 4, {"objects": "2-4", "picture_size": "medium"}),
        (512, 512, 5, {"objects": "5-9", "picture_size": "large"}),
        (4000, 6000, 40, {"objects": "10+", "picture_size": "large"}),
    ],
)
def test_slices_that_a_picture_belongs_to(height, width, objects, expected):
    features = record(**{"image/height": np.array([height]), "image/width": np.array([width])})
    for name, value in features.items():
        if name.startswith("image/object"):
            features[name] = np.repeat(value, objects)
    assert picture_slices.slice_values(features, COMMON) == expected
    for name, value in expected.items():
        assert value in picture_slices.VALUES[name]

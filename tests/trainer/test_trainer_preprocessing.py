import numpy as np
import pytest
import tensorflow as tf

from data.errors import DataError
from data.fields import COMMON, HIKAPOK
from trainer.preprocessing import preprocessing_fn

_CLASSES = ["cat", "dog", "emu"]


def _inputs(fields, pictures, kind="sparse"):
    """Raw features of pictures, given as lists of (name, box, difficult)."""

    def of_objects(values, dtype):
        ragged = tf.ragged.constant(values, dtype=dtype, ragged_rank=1)
        if kind == "sparse":
            return ragged.to_sparse()
        return ragged.to_tensor() if kind == "dense" else ragged

    def of_pictures(values):
        return tf.constant(values)[:, None]

    inputs = {
        fields.encoded: of_pictures([f"jpeg{n}" for n in range(len(pictures))]),
        fields.filename: of_pictures([f"{n}.jpg" for n in range(len(pictures))]),
        fields.height: of_pictures([30] * len(pictures)),
        fields.width: of_pictures([40] * len(pictures)),
        fields.text: of_objects([[name for name, _, _ in p] for p in pictures], tf.string),
        fields.difficult: of_objects([[d for _, _, d in p] for p in pictures], tf.int64),
    }
    for index, side in enumerate(("ymin", "xmin", "ymax", "xmax")):
        values = [[box[index] for _, box, _ in p] for p in pictures]
        inputs[getattr(fields, side)] = of_objects(values, tf.float32)
    if fields.source_id:
        inputs[fields.source_id] = of_pictures([f"VOC/{n}" for n in range(len(pictures))])
    return inputs


def _process(fields, pictures, kind="sparse"):
    outputs = preprocessing_fn(_inputs(fields, pictures, kind), {"classes": _CLASSES})
    return {
        name: value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy().tolist()
        for name, value in outputs.items()
    }


_TWO = [
    [("dog", (0.1, 0.2, 0.3, 0.4), 0), ("emu", (0.0, 0.0, 1.0, 1.0), 1)],
    [("cat", (0.5, 0.5, 0.75, 1.0), 0), ("cat", (0.25, 0.25, 0.5, 0.5), 1)],
]


@pytest.mark.parametrize("fields", [COMMON, HIKAPOK])
@pytest.mark.parametrize("kind", ["sparse", "dense", "ragged"])
def test_names_become_ids_and_boxes_are_kept(fields, kind):
    found = _process(fields, _TWO, kind)
    assert found["label"] == [[2, 3], [1, 1]]
    assert found["difficult"] == [[0, 1], [0, 1]]
    for index, side in enumerate(("ymin", "xmin", "ymax", "xmax")):
        wanted = [[box[index] for _, box, _ in picture] for picture in _TWO]
        np.testing.assert_allclose(found[side], wanted, rtol=1e-6)
    assert found["encoded"] == [b"jpeg0", b"jpeg1"]


def test_record_ids_are_the_source_or_the_filename():
    assert _process(COMMON, _TWO)["record_id"] == [b"VOC/0", b"VOC/1"]
    assert _process(HIKAPOK, _TWO)["record_id"] == [b"0.jpg", b"1.jpg"]


def test_optional_fields_may_be_missing():
    inputs = _inputs(COMMON, _TWO)
    del inputs[COMMON.difficult], inputs[COMMON.source_id]
    found = preprocessing_fn(inputs, {"classes": _CLASSES})
    assert found["difficult"].to_list() == [[0, 0], [0, 0]]
    assert found["record_id"].numpy().tolist() == [b"0.jpg", b"1.jpg"]


def test_crowds_are_marked_if_records_have_them():
    assert _process(COMMON, _TWO)["is_crowd"] == [[0, 0], [0, 0]]
    no_area = ("cat", (0.5, 0.5, 0.5, 0.5), 0)
    inputs = _inputs(COMMON, [*_TWO, [no_area]])
    inputs[COMMON.is_crowd] = tf.ragged.constant([[0, 1], [1, 0], [1]], tf.int64).to_sparse()
    found = preprocessing_fn(inputs, {"classes": _CLASSES})
    assert found["is_crowd"].to_list() == [[0, 1], [1, 0], []]


def test_boxes_are_clipped_to_the_picture():
    found = _process(COMMON, [[("cat", (-0.5, 0.25, 0.5, 1.25), 0)]])
    sides = [found[side] for side in ("ymin", "xmin", "ymax", "xmax")]
    assert sides == [[[0.0]], [[0.25]], [[0.5]], [[1.0]]]


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.2, 0.5, 0.4),
        (0.1, 0.4, 0.3, 0.4),
        (0.6, 0.2, 0.5, 0.4),
        (0.1, 1.1, 0.3, 1.4),
        (-0.4, 0.1, -0.1, 0.4),
        (0, 0, 0, 0),
    ],
)
def test_boxes_without_area_are_dropped(box):
    pictures = [[("cat", box, 0), ("dog", (0.1, 0.1, 0.2, 0.2), 0)], [("emu", box, 1)]]
    found = _process(COMMON, pictures)
    assert found["label"] == [[2], []]
    assert [len(row) for row in found["xmax"]] == [1, 0]
    assert found["difficult"] == [[0], []]


def test_objects_of_other_classes_are_dropped():
    box = (0.1, 0.1, 0.2, 0.2)
    found = _process(COMMON, [[("cow", box, 0), ("emu", box, 0)], [("Cat", box, 0)]])
    assert found["label"] == [[3], []]


def test_pictures_without_objects():
    pictures = [[], [("dog", (0.1, 0.2, 0.3, 0.4), 0)], []]
    found = _process(COMMON, pictures)
    assert found["label"] == [[], [2], []]
    assert found["record_id"] == [b"VOC/0", b"VOC/1", b"VOC/2"]
    assert _process(COMMON, [[], []])["ymin"] == [[], []]


def test_inputs_without_annotations_are_refused():
    inputs = _inputs(COMMON, _TWO)
    del inputs[COMMON.text]
    with pytest.raises(DataError, match="not annotated pictures.*image/object/class/text"):
        preprocessing_fn(inputs, {"classes": _CLASSES})


def test_transform_graph_of_a_schema_gives_the_same(transformed_records, make, sample_classes):
    boxes = [(0.1, 0.2, 0.3, 0.4), (-0.5, 0.0, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5)]
    names = [sample_classes[2], sample_classes[0], sample_classes[1]]
    serialised = [
        make.record(1, b"one", boxes, names, difficult=[0, 1, 0]),
        make.record(2, b"two"),
    ]
    found = transformed_records(tf.constant(serialised))
    assert found["labels"].numpy().tolist() == [[3, 1], [0, 0]]
    assert found["difficult"].numpy().tolist() == [[False, True], [False, False]]
    wanted = [[[0.1, 0.2, 0.3, 0.4], [0, 0, 0.5, 0.5]], [[0] * 4] * 2]
    np.testing.assert_allclose(found["boxes"], wanted, atol=1e-6)
    assert found["encoded"].numpy().tolist() == [b"one", b"two"]
    assert found["record_id"].numpy().tolist() == [b"VOC2007/000001", b"VOC2007/000002"]


def test_all_operations_run_on_the_cpu():
    inputs = _inputs(COMMON, _TWO)
    traced = tf.function(lambda inputs: preprocessing_fn(inputs, {"classes": _CLASSES}))
    operations = traced.get_concrete_function(inputs).graph.get_operations()
    # Inputs and outputs have no device.
    steps = [o for o in operations if o.type not in ("Placeholder", "Identity", "NoOp")]
    assert len(steps) > 10
    assert {o.device for o in steps} == {"/device:CPU:0"}

import base64
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving import json_request
from serving.json_request import read_document, read_inputs
from serving.status import StatusError

_TYPES = [tf.float32, tf.float64, tf.int8, tf.uint8, tf.int16, tf.int32]
_TYPES += [tf.int64, tf.uint32, tf.uint64, tf.bool]


def _read(types, **document):
    document, signature = read_document(json.dumps(document).encode())
    inputs, row_format = read_inputs(document, types)
    return signature, inputs, row_format


def _error(types, **document):
    with pytest.raises(StatusError) as raised:
        _read(types, **document)
    return raised.value.message


@st.composite
def _arrays(draw):
    dtype = draw(st.sampled_from(_TYPES))
    shape = draw(hnp.array_shapes(max_dims=3, max_side=3))
    return draw(hnp.arrays(dtype.as_numpy_dtype, shape)), dtype


@given(_arrays())
def test_rows_columns_and_names_give_the_same_tensor(array_and_dtype):
    array, dtype = array_and_dtype
    types = {"x": dtype}
    rows = array.tolist()
    answers = [
        _read(types, instances=rows),
        _read(types, instances=[{"x": row} for row in rows]),
        _read(types, inputs=rows),
        _read(types, inputs={"x": rows}),
    ]
    for signature, inputs, _ in answers:
        assert signature == ""
        assert inputs["x"].dtype == array.dtype
        # RapidJSON's float64s may be off in the last digit, here as in TensorFlow Serving.
        rtol, atol = (1e-15, 1e-307) if dtype == tf.float64 else (0, 0)
        np.testing.assert_allclose(inputs["x"], array, rtol, atol)
    assert [row_format for *_, row_format in answers] == [True, True, False, False]


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-300, 300)
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([{"b64": "aGk="}, {"b64": "a"}, {"b64": 1}, {}, {"x": 1}, {"y": 1}]),
    lambda inner: st.lists(inner, max_size=3),
)


@settings(max_examples=500)
@given(st.lists(_VALUES, min_size=1, max_size=3), st.sampled_from([*_TYPES, tf.string, tf.half]))
def test_where_there_is_no_tensor_a_fault_is_named_and_only_there(values, dtype):
    named = isinstance(values[0], dict) and "b64" not in values[0]
    for value in (values, values[0]):
        tensor = json_request._dense(value, dtype)
        try:
            json_request._check(value, 0, json_request._shape(value), dtype)
            assert tensor is not None
        except StatusError:
            assert tensor is None
    try:
        inputs = json_request._rows(values, {"x": dtype})
        json_request._check_rows(values, named, {"x": dtype})
        assert inputs["x"] is not None
    except StatusError:
        with pytest.raises(StatusError):
            json_request._check_rows(values, named, {"x": dtype})


@given(st.lists(st.binary(max_size=20) | st.text(max_size=5), min_size=1, max_size=4))
def test_strings_are_text_or_base64(values):
    sent = [
        {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for value in values
    ]
    expected = [value if isinstance(value, bytes) else value.encode() for value in values]
    _, inputs, _ = _read({"x": tf.string}, instances=sent)
    assert inputs["x"].tolist() == expected


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("aGVsbG8=", b"hello"),
        ("aGVsbG8", b"hello"),
        (" aGVs\nbG8=\t", b"hello"),
        ("", b""),
        ("aGVsbG8.", b"hello"),
        ("aA=.", b"h"),
        ("_-8=", None),
        ("a", None),
        ("aGk==", None),
        ("aGk=x", None),
        ("aGk..", None),
        ("aG.k", None),
        ("ä", None),
    ],
)
def test_base64(text, decoded):
    if decoded is None:
        assert "Unable to base64 decode" in _error({"x": tf.string}, inputs={"b64": text})
    else:
        assert _read({"x": tf.string}, inputs={"b64": text})[1]["x"].item() == decoded


def test_several_inputs_and_a_signature_name():
    signature, inputs, _ = _read(
        {"a": tf.int32, "b": tf.string},
        signature_name="other",
        instances=[{"a": [1, 2], "b": "x"}, {"b": "y", "a": [3, 4]}],
    )
    assert signature == "other"
    assert inputs["a"].tolist() == [[1, 2], [3, 4]]
    assert inputs["b"].tolist() == [b"x", b"y"]


def test_small_integers_wrap_and_large_ones_do_not_fit():
    assert _read({"x": tf.int8}, instances=[128, 200, -129])[1]["x"].tolist() == [-128, -56, 127]
    assert "Type: Number is not of expected type: int32" in _error({"x": tf.int32}, inputs=2**31)
    assert "is not of expected type: uint64" in _error({"x": tf.uint64}, inputs=[-1])


def test_what_a_float_cannot_hold_becomes_infinite():
    assert _read({"x": tf.float32}, inputs=[1e39, -1e39])[1]["x"].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("value", [True, None, "1", {"b64": "aGk="}])
def test_only_numbers_are_numbers(value):
    assert "is not of expected type: float" in _error({"x": tf.float32}, instances=[1, value])


def test_of_several_faults_the_first_in_the_document_is_named():
    message = _error({"x": tf.float32}, instances=[[1, 2], [3, "bad"], [None]])
    assert message == (
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "bad" Type: String is not of expected type: float'
    )


def test_missing_and_unknown_names():
    types = {"a": tf.int32, "b": tf.int32}
    assert _error(types, instances=[{"a": 1}]).endswith("keys must be equal to: a,b")
    assert "does not have named input: c" in _error(types, instances=[{"a": 1, "c": 1}])
    assert _error(types, inputs={"a": 1}) == "Missing named input: b in 'inputs' object."
    assert _error(types, inputs=[1]).startswith("inputs is a plain value/list")
    assert _error(types, instances=[1, 2]).startswith("instances is a plain list")
    assert _error(types, instances=[{"a": 1, "b": 1}, 5]) == (
        "Expecting object but got list at item 1 of input list"
    )


def test_deep_lists_are_refused():
    nested = 1
    for _ in range(33):
        nested = [nested]
    assert "33 levels deep" in _error({"x": tf.float32}, inputs=nested)
    assert "32 at most" in _error({"x": tf.float32}, instances=[nested])


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body):
    try:
        document, _ = read_document(b'{"instances": ' + body + b"}")
        read_inputs(document, {"x": tf.float32})
    except StatusError as error:
        assert error.code in ("INVALID_ARGUMENT", "UNIMPLEMENTED")

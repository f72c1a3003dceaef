"""JSON bodies become tensors or errors."""

import base64
import json
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.model_server.json_request import read_document, read_inputs
from serving.model_server.status import StatusError

_TYPES = [tf.float32, tf.float64, tf.int8, tf.uint8, tf.int16, tf.int32]
_TYPES += [tf.int64, tf.uint32, tf.uint64, tf.bool]
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


def _read(types, **document):
    document, signature = read_document(json.dumps(document).encode())
    inputs, row_format = read_inputs(document, types)
    return signature, inputs, row_format


def _refused(types, **document) -> StatusError:
    with pytest.raises(StatusError) as raised:
        _read(types, **document)
    assert len(raised.value.message) < 200, "long values are shortened"
    return raised.value


@given(st.dictionaries(_TEXT.filter(lambda key: key != "signature_name"), _JSON))
def test_reads_what_the_standard_library_writes(value):
    for body in (json.dumps(value), "\ufeff" + json.dumps(value, ensure_ascii=False, indent=1)):
        assert read_document(body.encode()) == (value, "")


@given(st.dictionaries(st.sampled_from("abc"), _JSON, min_size=1), _JSON)
def test_the_first_of_duplicate_keys_wins_at_every_depth(members, later):
    members.setdefault("a", 0)
    text = json.dumps(members)[:-1] + ', "a": ' + json.dumps(later) + "}"
    assert read_document(text.encode())[0] == members
    assert read_document(f'{{"x": [{{"y": {text}}}]}}'.encode())[0] == {"x": [{"y": members}]}


def test_nan_and_infinity():
    values = read_document(b'{"x": [NaN, Infinity, -Infinity, -0.0]}')[0]["x"]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 0.0]
    assert math.copysign(1, values[3]) == -1


@given(
    st.binary(max_size=12).filter(lambda b: not set(b) & set(b'"\\') and min(b, default=32) > 31)
)
def test_strings_may_hold_bytes_that_are_not_utf8(stray):
    document, _ = read_document(b'{"inputs": ["' + stray + b'"]}')
    assert read_inputs(document, {"x": tf.string})[0]["x"].tolist() == [stray]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"[1.]",
        b"[1.0]",
        b"null",
        b'{"a": 1} x',
        b"\xef\xbb\xbf{1",
        b'{"a\n": 1}',
        b'{"a": "\x00"}',
        b'{"a": "\\x"}',
        b'{"a": 1e400}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\ude00"}',
        b'{"signature_name": 100}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_invalid_requests(body):
    with pytest.raises(StatusError) as raised:
        read_document(body)
    assert raised.value.code == "INVALID_ARGUMENT"
    assert len(raised.value.message) < 200


@pytest.mark.parametrize("text", [r"\ud83d\ude00", r"\\ud800", r"\\\u0041"])
def test_surrogate_pairs_and_escapes_that_only_look_like_half_of_one(text):
    document, _ = read_document(f'{{"a": "{text}"}}'.encode())
    assert document == json.loads(f'{{"a": "{text}"}}')


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
        np.testing.assert_array_equal(inputs["x"], array)
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


def _fits(value, dtype) -> bool:
    """Whether a nested list is a tensor of the type, by numpy's shapes and limits."""
    if isinstance(value, list):
        shapes = {np.shape(_plain(item)) if _fits(item, dtype) else None for item in value}
        return None not in shapes and len(shapes) <= 1
    if dtype == tf.string:
        return isinstance(value, str) or value == {"b64": "aGk="}
    if dtype == tf.bool:
        return isinstance(value, bool)
    if dtype.is_floating:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (isinstance(value, float) or abs(value) < 2**1024)
    limits = np.iinfo(dtype.as_numpy_dtype if dtype.size > 4 or dtype == tf.uint32 else np.int32)
    return type(value) is int and limits.min <= value <= limits.max


def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, list) else 0


@settings(max_examples=300)
@given(_VALUES, st.sampled_from([*_TYPES, tf.string]))
def test_a_column_is_accepted_exactly_if_it_is_a_tensor(value, dtype):
    try:
        _, inputs, _ = _read({"x": dtype}, inputs={"x": value})
    except StatusError as error:
        assert error.code == "INVALID_ARGUMENT"
        assert not _fits(value, dtype)
    else:
        assert _fits(value, dtype)
        assert inputs["x"].shape == np.shape(_plain(value))


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
        assert _refused({"x": tf.string}, inputs={"b64": text}).code == "INVALID_ARGUMENT"
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
    assert "int32" in _refused({"x": tf.int32}, inputs=2**31).message
    assert "uint64" in _refused({"x": tf.uint64}, inputs=[-1]).message


def test_floats_out_of_range_become_infinite():
    assert _read({"x": tf.float32}, inputs=[1e39, -1e39])[1]["x"].tolist() == [np.inf, -np.inf]


def test_types_that_json_cannot_express():
    assert _refused({"x": tf.uint16}, inputs=[1]).code == "UNIMPLEMENTED"
    assert _refused({"x": tf.uint16}, instances=[1]).code == "INVALID_ARGUMENT"


def test_messages_name_the_input_the_value_and_the_expected_type():
    types = {"a": tf.int32, "b": tf.int32}
    assert _refused({"x": tf.float32}, instances=[1, "bad"]).message == (
        'x: found "bad" where a float32 is expected'
    )
    assert _refused(types, instances=[{"a": 1}]).message == (
        "instance 0 has inputs a, but the model needs a, b"
    )
    assert "instance 1" in _refused(types, instances=[{"a": 1, "b": 1}, 5]).message
    assert _refused(types, inputs={"a": 1}).message == "inputs has no b: it needs a, b"
    assert "a, b" in _refused(types, inputs=[1]).message
    assert "a, b" in _refused(types, instances=[1, 2]).message
    assert "differ in length" in _refused({"x": tf.int32}, inputs=[[1], [2, 3]]).message
    assert "both" in _refused({"x": tf.int32}, inputs=[1], instances=[1]).message


def test_deep_lists_are_refused():
    nested = 1
    for _ in range(33):
        nested = [nested]
    assert "33 levels deep" in _refused({"x": tf.float32}, inputs=nested).message
    assert "32 at most" in _refused({"x": tf.float32}, instances=[nested]).message


@given(st.binary(max_size=60))
def test_any_bytes_give_a_document_or_an_error(body):
    try:
        document, _ = read_document(b'{"instances": ' + body + b"}")
        read_inputs(document, {"x": tf.float32})
    except StatusError as error:
        assert error.code == "INVALID_ARGUMENT"

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.model_server.json_response import write_response
from serving.model_server.status import StatusError

_ARRAYS = st.sampled_from(
    [np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_]
).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3)
    )
)


def _same(values, array):
    values = np.array(values, array.dtype).reshape(array.shape)
    np.testing.assert_array_equal(values, array)


@given(_ARRAYS)
def test_columns_hold_the_values(array):
    _same(json.loads(write_response({"y": array}, False))["outputs"], array)
    two = json.loads(write_response({"y": array, "z": array}, False))["outputs"]
    _same(two["y"], array)
    _same(two["z"], array)


@given(_ARRAYS)
def test_rows_hold_the_values(array):
    rows = json.loads(write_response({"y": array}, True))["predictions"]
    assert len(rows) == len(array)
    _same(rows, array)
    named = json.loads(write_response({"y": array, "z": array}, True))["predictions"]
    _same([row["y"] for row in named], array)
    _same([row["z"] for row in named], array)


@given(st.floats(width=32))
def test_a_float32_is_written_exactly_in_few_digits(value):
    number = np.float32(value)
    for array in (np.array([number]), np.array([number, np.nan], np.float32)):
        text = write_response({"y": array}, False).decode()[len('{"outputs":[') : -2].split(",")[0]
        assert np.array_equal(np.float32(text), number, equal_nan=True)
        assert isinstance(json.loads(text), float), "must not look like an integer"
        if np.isfinite(number):
            digits = text.split("e")[0].replace("-", "").replace(".", "").strip("0")
            assert len(digits) <= 9


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(value):
    answer = write_response({"y": np.array([0.5, value], np.float32)}, True)
    np.testing.assert_array_equal(json.loads(answer)["predictions"], [0.5, value])


def test_a_scalar_column():
    assert write_response({"y": np.array(7.5, np.float32)}, False) == b'{"outputs":7.5}'


def test_only_outputs_named_bytes_are_base64():
    values = np.array([b"\xff\x00", 'ä"'.encode()], object)
    answer = write_response({"text": values, "raw_bytes": values}, False)
    outputs = json.loads(answer.decode("utf-8", "surrogateescape"))["outputs"]
    assert [base64.b64decode(v["b64"]) for v in outputs["raw_bytes"]] == values.tolist()
    assert [v.encode("utf-8", "surrogateescape") for v in outputs["text"]] == values.tolist()


@pytest.mark.parametrize(
    ("outputs", "row_format"),
    [
        ({}, True),
        ({"y": np.zeros(())}, True),
        ({"y": np.zeros(2), "z": np.zeros(3)}, True),
        ({"y": np.zeros(2, np.float16)}, False),
    ],
)
def test_outputs_that_cannot_be_written(outputs, row_format):
    with pytest.raises(StatusError) as raised:
        write_response(outputs, row_format)
    assert raised.value.code == "INVALID_ARGUMENT"

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.json_text import decimals, parse, pretty
from serving.status import StatusError

# RapidJSON's doubles may be off in the last digit where they have many.
_NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.integers(-999, 999).map(lambda i: i / 8)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(_JSON)
def test_reads_what_the_standard_library_wrote(value):
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


@given(st.dictionaries(st.sampled_from("abc"), _JSON, min_size=1), _JSON)
def test_the_first_of_equal_keys_wins_at_every_depth(members, later):
    members.setdefault("a", 0)
    text = json.dumps(members)[:-1] + ', "a": ' + json.dumps(later) + "}"
    assert parse(text.encode()) == members
    assert parse(f'{{"x": [{{"y": {text}}}]}}'.encode()) == {"x": [{"y": members}]}


def test_nan_and_infinity():
    values = parse(b'{"x": [NaN, Infinity, -Infinity, -0.0]}')["x"]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 0.0]
    assert math.copysign(1, values[3]) == -1


@given(
    st.binary(max_size=12).filter(lambda b: not set(b) & set(b'"\\') and min(b, default=32) > 31)
)
def test_bytes_that_are_not_utf8_come_through_in_strings(stray):
    (value,) = parse(b'{"k' + stray + b'": ["' + stray + b'"]}').values()
    assert value[0].encode("utf-8", "surrogateescape") == stray


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (rb"\udc00", b"\xed\xb0\x80"),
        (rb"a\uDFFFb", b"a\xed\xbf\xbfb"),
        (rb"\ud83d\ude00\ude00", "\U0001f600".encode() + b"\xed\xb8\x80"),
        (rb"\\udc00", rb"\udc00"),
        (rb"\\\udc00", b"\\\xed\xb0\x80"),
    ],
)
def test_the_second_half_of_a_surrogate_pair_alone(text, value):
    ((key, found),) = parse(b'{"' + text + b'": "' + text + b'"}').items()
    assert key == found
    assert found.encode("utf-8", "surrogateescape") == value


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "The document is empty"),
        (b"  ", "The document is empty. at offset: 2"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b'{"a": 1} x', "The document root must not be followed by other values. at offset: 9"),
        (b"\xef\xbb\xbf{1", "Missing a name for object member. at offset: 4"),
        (b'["\xff\xfe", x]', "Invalid value. at offset: 7"),
        (b'["a\n"]', "Invalid escape character in string. at offset: 3"),
        (b'["\x00"]', "Missing a closing quotation mark in string. at offset: 2"),
        (b'["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b"[" * 100_000, "nested too deeply (1000 levels at most)"),
        (b'{"a":' * 100_000, "nested too deeply (1000 levels at most)"),
    ],
)
def test_errors_are_rapidjsons_with_the_offset_in_bytes(body, error):
    with pytest.raises(StatusError) as raised:
        parse(body)
    assert raised.value.code == "INVALID_ARGUMENT"
    assert raised.value.message == f"JSON Parse error: {error}"


@settings(max_examples=300)
@given(st.floats(width=32))
def test_a_float_has_6_digits_if_they_say_it_exactly(value):
    number = np.float32(value)
    (text,) = decimals(np.array([number]))
    assert np.array_equal(np.float32(text), number, equal_nan=True)
    if np.isfinite(number):
        digits = text.split("e")[0].replace("-", "").replace(".", "").strip("0")
        assert len(digits) <= 9
        if np.float32(f"{number:.5e}") == number:
            assert len(digits) <= 6
        assert "." in text or "e" in text, "never to be taken for an integer"
    assert isinstance(json.loads(text), float)


@given(st.floats(allow_nan=False))
def test_a_double_survives(value):
    (text,) = decimals(np.array([value]))
    assert float(text) == value


@given(_JSON)
def test_pretty_shows_the_value_itself(value):
    shown = json.loads(pretty(value))
    assert shown == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)


def test_pretty_layout():
    value = {"a": [1, {"b": "x\n"}], "c": {}, "d": [], "e": [1e21, 1e20, 1.5e-7, 0.25]}
    assert pretty(value) == (
        '{\n    "a": [\n        1,\n        {\n            "b": "x\\n"\n        }\n    ],\n'
        '    "c": {},\n    "d": [],\n    "e": [\n        1e21,\n        100000000000000000000.0,\n'
        "        1.5e-7,\n        0.25\n    ]\n}"
    )


def test_pretty_escapes_control_characters_as_rapidjson_does():
    assert pretty({"\x1f": '\x00"/\x7f'}) == '{\n    "\\u001F": "\\u0000\\"/\x7f"\n}'


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_pretty_ends_where_rapidjson_stops_at_a_number_that_is_not_finite(number):
    assert pretty({"a": [1, number, 2], "b": 3}) == '{\n    "a": [\n        1,\n        '


def test_pretty_of_a_document_deeper_than_the_stack():
    assert "too deeply" in pretty(parse(b"[" * 990 + b"]" * 990))

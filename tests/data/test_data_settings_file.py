"""Settings in YAML files: reading, writing, and the messages for mistakes."""

from pathlib import Path
from unittest import mock

import pytest

from data.errors import DataError
from data.settings_file import as_yaml, read_settings, write_settings


@pytest.fixture
def read(tmp_path):
    """Reads settings from a text."""

    def read(text):
        path = tmp_path / "run.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_settings(path)

    return read


def test_values_and_their_lines(read):
    values, lines = read("# mine\na: 1\nb:\n  c: {d: [x, 2]}\n\n  e: yes\n")
    assert values == {"a": 1, "b": {"c": {"d": ["x", 2]}, "e": True}}
    assert lines == {("a",): 2, ("b",): 3, ("b", "c"): 4, ("b", "c", "d"): 4, ("b", "e"): 6}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_sets_nothing(read, text):
    assert read(text) == ({}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: c: d\n", "run.yaml, line 2: is not YAML .mapping values are not allowed"),
        ("a:\n\tb: 1\n", "run.yaml, line 2: is not YAML"),
        ("a: *b\n", "run.yaml, line 1: is not YAML .*alias"),
        ("- a\n", "run.yaml: write sections with settings"),
        ("steps\n", "run.yaml: write sections with settings"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "run.yaml, line 4: a.b is already set on line 2. Remove"),
        ("a:\n  5: 1\n", "run.yaml, line 2: '5' is not a setting's name"),
        (b"a: \xff\n", "run.yaml: is not a YAML file"),
    ],
)
def test_mistakes_name_file_and_line(read, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="none.yaml: cannot be read .No such file"):
        read_settings(tmp_path / "none.yaml")


def test_writing_and_reading_gives_the_same_values_and_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "run.yaml"
    values = {"b": {"rate": 1e-05, "third": 1 / 3, "names": ["x: y", "é"]}, "a": None, "t": "1e5"}
    write_settings(path, {"a": 1})
    write_settings(path, values)
    assert read_settings(path)[0] == values
    assert [entry.name for entry in path.parent.iterdir()] == ["run.yaml"]
    with mock.patch.object(Path, "replace", side_effect=OSError), pytest.raises(OSError):
        write_settings(path, {"a": 2})
    assert read_settings(path)[0] == values


def test_names_keep_their_order_and_lists_are_on_one_line():
    assert as_yaml({"b": (1, 2), "a": {"c": ["x"]}}) == "b: [1, 2]\na:\n  c: [x]\n"

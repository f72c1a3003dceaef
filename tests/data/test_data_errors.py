"""Finding the error that users can act on inside those of libraries."""

import pytest

from data.errors import DataError, did_you_mean, find_data_error


def raised(action):
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


def by_cause():
    try:
        raise DataError("bad box")
    except DataError as error:
        raise RuntimeError("add_input failed") from error


def by_context():
    try:
        by_cause()
    except RuntimeError:
        raise KeyError("while cleaning up")  # noqa: B904


def by_beam():
    try:
        raise DataError("bad box")
    except DataError as error:
        raise DataError(f"{error} [while running 'Check/ParDo(Check)']") from error


def plain():
    raise DataError("bad box")


def outer():
    try:
        raise DataError("a detail")
    except DataError as error:
        raise DataError("bad box") from error


@pytest.mark.parametrize("action", [by_cause, by_context, by_beam, plain, outer])
def test_a_data_error_is_found_in_any_chain(action):
    assert str(find_data_error(raised(action))) == "bad box"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dgo", "did you mean dog?"),
        ("DOG", "did you mean dog?"),
        ("trainer", "did you mean Trainer?"),
        ("catt", "did you mean cat or cart?"),
        ("xyz", "choose from dog, cat, cart, Trainer"),
    ],
)
def test_did_you_mean(name, hint):
    assert did_you_mean(name, ["dog", "cat", "cart", "Trainer"]) == hint


def test_a_long_list_of_names_is_cut():
    hint = did_you_mean("none", [f"class {number}" for number in range(1000)])
    assert hint.startswith("choose from class 0, class 1, ") and hint.endswith("class 29, ...")


def test_a_bug_is_not_a_data_error():
    assert find_data_error(raised(lambda: 1 / 0)) is None


def test_circular_chains_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert find_data_error(first) is None

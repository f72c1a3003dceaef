"""Finding the error a user can act on behind what libraries make of it."""

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
def test_found_wherever_it_hides(action):
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
def test_near_misses(name, hint):
    assert did_you_mean(name, ["dog", "cat", "cart", "Trainer"]) == hint


def test_of_many_names_the_first_are_named():
    hint = did_you_mean("none", [f"class {number}" for number in range(1000)])
    assert hint.startswith("choose from class 0, class 1, ") and hint.endswith("class 29, ...")


def test_a_mistake_of_ours_is_none():
    assert find_data_error(raised(lambda: 1 / 0)) is None


def test_a_chain_in_a_circle_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert find_data_error(first) is None

"""Score thresholds as users write them."""

import json

import pytest

from data.errors import DataError
from serving.thresholds import parse_thresholds


@pytest.fixture
def model(tmp_path):
    rows = [{"name": "RBC", "score_threshold": 0.49}, {"name": "WBC", "score_threshold": None}]
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "facts.json").write_text(
        json.dumps({"evaluation": {"classes": rows}})
    )
    return tmp_path


def test_one_for_all_classes_and_one_per_class():
    assert not parse_thresholds("0.3").keeps("a", 0.29)
    assert parse_thresholds("0.3").keeps("a", 0.3)
    some = parse_thresholds("RBC:0.49, a:b:0.1")
    assert (some.default, some.by_class) == (0.5, {"RBC": 0.49, "a:b": 0.1})
    assert some.keeps("a:b", 0.2) and not some.keeps("RBC", 0.48) and not some.keeps("c", 0.4)
    assert parse_thresholds("0.2,RBC:0.9").keeps("c", 0.2)
    lowest = {text: parse_thresholds(text).lowest for text in ("0.3", "0.2,RBC:0.9", "RBC:0.4")}
    assert lowest == {"0.3": 0.3, "0.2,RBC:0.9": 0.2, "RBC:0.4": 0.4}


def test_recommendations_come_with_the_model(model):
    assert parse_thresholds("report", model).by_class == {"RBC": 0.49}
    assert parse_thresholds(f"report:{model}").by_class == {"RBC": 0.49}
    with pytest.raises(DataError, match="a server does not give"):
        parse_thresholds("report")
    with pytest.raises(DataError, match="nowhere/assets.extra/facts.json: no recommended"):
        parse_thresholds("report:nowhere")


@pytest.mark.parametrize("text", ["a", "RBC:", "1.2", "RBC:-1", "nan", ""])
def test_invalid_thresholds(text):
    with pytest.raises(DataError, match="is not a score from 0 to 1"):
        parse_thresholds(text)

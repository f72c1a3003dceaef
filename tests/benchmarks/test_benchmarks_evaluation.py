"""The benchmark runs, agrees with pycocotools and reports its measurements; speed is not tested."""

import json

import pytest

from benchmarks import evaluation


@pytest.mark.slow
def test_measurements_are_reported(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(evaluation, "_PICTURES", 60)
    monkeypatch.delenv("VOC_FIXTURES", raising=False)
    monkeypatch.setattr("sys.argv", ["evaluation", "--json", str(tmp_path / "numbers.json")])
    status = evaluation.main()
    written = json.loads((tmp_path / "numbers.json").read_text())
    coco, tfma = written["measurements"]
    assert "COCO metrics" in coco["what"] and "TFMA" in tfma["what"]
    assert min(coco["seconds"], coco["may take"], tfma["seconds"], tfma["may take"]) > 0
    slow = any(row["seconds"] > row["may take"] for row in (coco, tfma))
    size = written["bounds"][-1]
    assert 30 < size["value"] < 100 and size["holds"]
    assert status == int(slow)
    captured = capsys.readouterr()
    assert json.loads(captured.out[captured.out.index("{") :]) == written
    assert "VOC_FIXTURES is not set" in captured.err

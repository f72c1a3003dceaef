"""The benchmark runs, agrees with pycocotools and reports what it measured; not how fast it is."""

import json

from benchmarks import evaluation


def test_it_measures_and_reports(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(evaluation, "_PICTURES", 60)
    monkeypatch.delenv("VOC_FIXTURES", raising=False)
    monkeypatch.setattr("sys.argv", ["evaluation", "--json", str(tmp_path / "numbers.json")])
    status = evaluation.main()
    written = json.loads((tmp_path / "numbers.json").read_text())
    coco, tfma = written["measurements"]
    assert "COCO metrics" in coco["name"] and "TFMA" in tfma["name"]
    assert status == int(any(row["seconds"] > row["bound"] > 0 for row in (coco, tfma)))
    assert 30 < written["bytes_per_detection"]["accumulator"] < 100
    captured = capsys.readouterr()
    assert json.loads(captured.out[captured.out.index("{") :]) == written
    assert "VOC_FIXTURES is not set" in captured.err

"""The notebook that opens an evaluation with TFMA, run end to end."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.pipeline.recorder import Recorder

NOTEBOOK = Path(__file__).parents[2] / "docs" / "evaluation.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.slow
def test_the_notebook_shows_scores_views_and_verdict(replayed, model_facts, tmp_path, monkeypatch):
    recorder = Recorder(tmp_path)
    recorder.run("run")
    evaluation = recorder.artifact("ModelEvaluation", replayed / "evaluation")
    recorder.step("Evaluator", (), {"evaluation": evaluation})
    monkeypatch.setenv("SSD_RUN", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert all(output.output_type != "stream" for some in outputs for output in some)
    found, scores, slices, plot, verdict, series = (some[-1].data for some in outputs if some)
    assert found["text/plain"] == repr(str(replayed / "evaluation"))
    assert f"{model_facts['evaluation']['map']['value']:.12f}" in scores["text/plain"]
    assert "AP/cat" in verdict["text/plain"]
    views = (slices, plot, series)
    assert all(WIDGET in view for view in views)
    names = [view["text/plain"].partition("Viewer")[0] for view in views]
    assert names == ["SlicingMetrics", "Plot", "TimeSeries"]

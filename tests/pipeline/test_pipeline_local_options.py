"""How a local run uses its options, up to the start of the first component."""

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import DataError
from data.fields import COMMON
from data.schema import SAMPLE_SCHEMA
from pipeline import local
from pipeline.config import load_config
from pipeline.pipeline import Inputs
from pipeline.runs.home import Move
from trainer import reporting


class Stopped(Exception):
    """Raised where the first component would start."""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Returns the pipeline, the RunOptions and the environment that a run starts with."""

    def started(*settings, **options):
        found = {}

        def run(pipeline, run_options, **named):
            found.update(pipeline=pipeline, options=run_options, environment=dict(os.environ))
            found.update(named)
            raise Stopped

        inputs = Inputs(tmp_path, {"train": "t/*"}, COMMON, Path(SAMPLE_SCHEMA), ("star",))
        monkeypatch.setattr(local, "prepare", lambda *given: found.update(read=given) or inputs)
        monkeypatch.setattr(local, "run_with_progress", run)
        config = load_config("sample", list(settings))
        config = dataclasses.replace(config, output=str(tmp_path / "output"))
        found["config"] = config
        with pytest.raises(Stopped):
            local.run(config, **options)
        return found

    return started


def test_all_files_of_a_run_are_in_its_folder(started, tmp_path):
    found = started(beam_args=["--runner=X"])
    pipeline = found["pipeline"]
    output = str(tmp_path / "output")
    info = pipeline.pipeline_info
    assert (info.pipeline_name, info.pipeline_root) == ("ssd-sample", f"{output}/pipeline")
    given = {component.id: component.exec_properties for component in pipeline.components}
    assert json.loads(given["Trainer"]["custom_config"])["work_dir"] == f"{output}/unfinished"
    assert f'"{output}/serving/ssd"' in given["Pusher"]["push_destination"]
    database = pipeline.metadata_connection_config.sqlite.filename_uri
    assert database == f"{output}/metadata.sqlite"
    assert pipeline.beam_pipeline_args == ["--runner=X"]
    assert found["read"][2:] == (tmp_path / "output", ["--runner=X"])


def test_a_run_records_its_name_data_and_configuration(started, tmp_path):
    found = started()
    assert (found["output"], found["known"]) == (tmp_path / "output", {"name": "sample"})
    file = tmp_path / "output" / "runs" / f"{found['run']}.yaml"
    assert load_config(file=file) == found["config"]
    pets = started("data.path=/a/pets")
    assert pets["known"] == {"name": "pets sample", "data": "/a/pets"}
    assert pets["run"] > found["run"]
    assert started("data.path=/a/pets", name="mine")["known"]["name"] == "mine"


def test_metadata_are_checked_before_the_run(started, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "ssd")
    file = tmp_path / "output" / "metadata.sqlite"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(local, "relocate", {file: Move("/old", "/new")}.get)
    started()
    assert "moved from /old to /new" in caplog.text
    file.write_text("damaged")
    with pytest.raises(DataError, match="the record of all runs is damaged"):
        started()


def test_the_imported_schemas_path_depends_on_its_content(started, tmp_path):
    pipeline = started()["pipeline"]
    (path,) = (
        c.exec_properties["schema_file"] for c in pipeline.components if c.id == "ImportSchemaGen"
    )
    assert Path(path).is_relative_to(tmp_path / "output" / "schemas")
    assert Path(path).read_bytes() == Path(SAMPLE_SCHEMA).read_bytes()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_cache_follows_the_option(started, enabled):
    found = started(enable_cache=enabled)
    assert found["pipeline"].enable_cache is enabled
    assert found["options"] is None


def test_from_disables_the_cache(started, monkeypatch):
    monkeypatch.setattr(local, "_latest_with", lambda *_: SimpleNamespace(id="first"))
    found = started(from_component="Trainer")
    assert found["pipeline"].enable_cache is False
    assert found["options"].from_nodes == ["Trainer", "latest_blessed_model"]


def test_reporting_settings_are_only_in_the_runs_environment(started):
    before = dict(os.environ)
    settings = ("trainer.log_every=7", "trainer.checkpoint_every=8", "trainer.keep_checkpoints=9")
    environment = started(*settings)["environment"]
    assert json.loads(environment[reporting.VARIABLE]) == {
        "log_every": 7,
        "checkpoint_every": 8,
        "keep_checkpoints": 9,
    }
    assert dict(os.environ) == before

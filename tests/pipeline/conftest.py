"""Builds pipelines without running them."""

from pathlib import Path

import pytest
from tfx.orchestration.pipeline import Pipeline

from data.fields import COMMON
from data.schema import SAMPLE_SCHEMA
from pipeline.config import load_config
from pipeline.pipeline import Inputs, create_pipeline


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """`build("trainer.steps=5", ...)` builds a sample pipeline with these settings."""
    folder = tmp_path_factory.mktemp("built")

    def build(*settings: str, **options) -> Pipeline:
        inputs = Inputs(
            records=folder / "records",
            patterns={"train": "a/*", "eval": "b/*", "test": "c/*"},
            fields=options.pop("fields", COMMON),
            schema_path=options.pop("schema_path", Path(SAMPLE_SCHEMA)),
            classes=("star", "cross"),
        )
        return create_pipeline(
            load_config("sample", list(settings)),
            inputs,
            name="ssd",
            root=str(folder),
            serving_dir="/serving",
            work_dir="/volume/unfinished",
            **options,
        )

    return build

import dataclasses
import json
from pathlib import Path

import pytest

from data.errors import DataError
from data.fields import COMMON
from data.schema import SAMPLE_SCHEMA
from pipeline.config import load_config
from pipeline.pipeline import Inputs, create_pipeline

_JOB = [
    "training_job.workers=2",
    "training_job.image=registry/ssd:1",
    "training_job.volumes=claim:/volume",
]


def _trainer(overrides, folder):
    inputs = Inputs(
        records=folder,
        patterns={"train": "train/*", "eval": "eval/*", "test": "test/*"},
        fields=COMMON,
        schema_path=Path(SAMPLE_SCHEMA),
        classes=("star",),
    )
    pipeline = create_pipeline(
        load_config("sample", overrides),
        inputs,
        name="ssd",
        root=str(folder),
        serving_dir=str(folder / "serving"),
        work_dir="/volume/unfinished",
    )
    (trainer,) = [component for component in pipeline.components if component.id == "Trainer"]
    return trainer.exec_properties


def test_with_workers_the_trainer_starts_a_job(tmp_path):
    properties = _trainer([*_JOB, "training_job.gpu_count=4"], tmp_path)
    assert properties["run_fn"] == "components.distributed_trainer.launch.run_fn"
    job = json.loads(properties["custom_config"])["training_job"]
    assert (job["workers"], job["gpu_count"], job["volumes"]) == (2, 4, ["claim:/volume"])


def test_without_workers_the_trainer_trains(tmp_path):
    properties = _trainer([], tmp_path)
    assert properties["run_fn"] == "trainer.run.run_fn"
    assert "training_job" not in json.loads(properties["custom_config"])


def test_changed_weights_at_the_same_path_are_another_training(tmp_path):
    weights = tmp_path / "vgg.pth"

    def settings():
        return _trainer([f"trainer.backbone_weights={weights}"], tmp_path)["custom_config"]

    # As on a cluster, where only the Trainer sees the file.
    unseen = settings()
    weights.write_bytes(b"one")
    one = settings()
    assert settings() == one
    weights.write_bytes(b"two")
    assert len({unseen, one, settings()}) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (_JOB[:2], "training_job: workers need .*volumes"),
        (_JOB[::2], "training_job: workers need image"),
        (
            [*_JOB[::2], "training_job.image=registry/SSD"],
            "training_job.image: 'registry/SSD' must be written as REGISTRY/NAME:TAG",
        ),
        (
            ["training_job.namespace=My_Team"],
            "training_job.namespace: 'My_Team' must be written as",
        ),
        (["training_job.queue=gpus/a"], "training_job.queue: 'gpus/a' must be written as lower"),
        (["training_job.volumes=a:/x,b:/x"], "training_job.volumes: .* only one claim at each"),
        (["training_job.workers=-1"], "training_job.workers: '-1' must be at least 0"),
        (
            [*_JOB, "training_job.gpu_count=3"],
            "trainer.batch_size: 16 must be a multiple of the 6 devices",
        ),
    ],
)
def test_impossible_jobs_are_rejected(overrides, message):
    with pytest.raises(DataError, match=message):
        load_config("sample", overrides)


def test_only_the_final_batch_size_has_to_fit():
    overrides = [*_JOB, "training_job.gpu_count=3", "trainer.batch_size=36"]
    config = load_config("sample", overrides)
    assert dataclasses.asdict(config.training_job)["workers"] == 2

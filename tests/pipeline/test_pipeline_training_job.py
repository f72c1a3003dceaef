import dataclasses
import json

import pytest

from data.errors import DataError
from pipeline.config import load_config

_JOB = [
    "training_job.workers=2",
    "training_job.image=registry/ssd:1",
    "training_job.volumes=claim:/volume",
]


@pytest.fixture
def trainer(build):
    """Returns the Trainer's parameters in a pipeline with these settings."""

    def trainer(*settings):
        (found,) = (part for part in build(*settings).components if part.id == "Trainer")
        return found.exec_properties

    return trainer


def test_with_workers_the_trainer_starts_a_job(trainer):
    properties = trainer(*_JOB, "training_job.gpu_count=4")
    assert properties["run_fn"] == "components.distributed_trainer.launch.run_fn"
    job = json.loads(properties["custom_config"])["training_job"]
    assert (job["workers"], job["gpu_count"], job["volumes"]) == (2, 4, ["claim:/volume"])


def test_without_workers_the_trainer_trains(trainer):
    properties = trainer()
    assert properties["run_fn"] == "trainer.run.run_fn"
    assert "training_job" not in json.loads(properties["custom_config"])


def test_changed_weights_at_the_same_path_are_another_training(trainer, tmp_path):
    weights = tmp_path / "vgg.pth"

    def settings():
        return trainer(f"trainer.backbone_weights={weights}")["custom_config"]

    # As on a cluster, where only the Trainer sees the file.
    unseen = settings()
    weights.write_bytes(b"one")
    one = settings()
    assert settings() == one
    weights.write_bytes(b"two")
    assert len({unseen, one, settings()}) == 3


def test_a_base_model_is_imported_from_an_absolute_path_or_a_uri(build, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for given, uri in (("models/7", f"{tmp_path}/models/7"), ("gs://b/m", "gs://b/m")):
        components = build(f"trainer.warm_start={given}").components
        (found,) = (part for part in components if part.id == "base_model")
        assert found.exec_properties["artifact_uri"] == uri


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

import errno
import shutil
import time
from pathlib import Path

import pytest
from tfx.components.pusher import executor as tfx_executor
from tfx.proto import pusher_pb2
from tfx.types import Channel, standard_artifacts
from tfx.utils import proto_utils

from components.artifacts import ModelCardFolder
from components.atomic_push import component
from components.atomic_push.component import Executor, Pusher
from tests.components.pushed import assert_whole, contents, numbered, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "Format-Serving")


def artifacts(tmp_path, model, blessed, infra_blessed):
    """A Pusher's inputs and outputs."""
    (tmp_path / "trained").mkdir()
    shutil.copytree(model, tmp_path / "trained" / "Format-Serving")
    found = {
        "model": standard_artifacts.Model(),
        "model_blessing": standard_artifacts.ModelBlessing(),
        "infra_blessing": standard_artifacts.InfraBlessing(),
    }
    found["model"].uri = str(tmp_path / "trained")
    found["model_blessing"].set_int_custom_property("blessed", blessed)
    found["infra_blessing"].set_int_custom_property("blessed", infra_blessed)
    pushed = standard_artifacts.PushedModel()
    pushed.uri = str(tmp_path / "pushed_model")
    return {name: [artifact] for name, artifact in found.items()}, {"pushed_model": [pushed]}


def run_pusher(executor, tmp_path, model, blessed=1, infra_blessed=1, **more_inputs):
    """Runs an executor; returns its PushedModel and the base folder it pushed to."""
    base = tmp_path / "serving" / "ssd"
    inputs, outputs = artifacts(tmp_path, model, blessed, infra_blessed)
    destination = pusher_pb2.PushDestination(
        filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=str(base))
    )
    inputs |= more_inputs
    executor().Do(inputs, outputs, {"push_destination": proto_utils.proto_to_json(destination)})
    return outputs["pushed_model"][0], base


def properties(artifact) -> dict:
    found = {"pushed": artifact.get_int_custom_property("pushed")}
    for name in ("pushed_destination", "pushed_version"):
        found[name] = artifact.get_string_custom_property(name)
    return found


def test_the_component_writes_the_same_as_tfxs(model, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    left = {}
    for executor in (Executor, tfx_executor.Executor):
        folder = tmp_path / executor.__module__
        folder.mkdir()
        pushed, base = run_pusher(executor, folder, model)
        assert_whole(base, model)
        assert contents(Path(pushed.uri)) == contents(model)
        left[executor] = {
            name: str(value).removeprefix(str(folder)) for name, value in properties(pushed).items()
        }
    assert left[Executor] == left[tfx_executor.Executor]
    assert left[Executor]["pushed_destination"] == "/serving/ssd/1700000000"


def test_the_card_is_pushed_too(model, tmp_path):
    card = ModelCardFolder()
    card.uri = str(tmp_path / "card")
    Path(card.uri).mkdir()
    (Path(card.uri) / "model_card.md").write_text("# a model\n")
    pushed, base = run_pusher(Executor, tmp_path, model, card=[card])
    expected = {**contents(model), "assets.extra/model_card.md": b"# a model\n"}
    (version,) = numbered(base).values()
    assert contents(version) == contents(Path(pushed.uri)) == expected


def test_the_training_datas_statistics_are_pushed_too(model, tmp_path):
    statistics = standard_artifacts.ExampleStatistics()
    statistics.uri = str(tmp_path / "statistics")
    statistics.split_names = '["train", "test"]'
    for split in ("train", "test"):
        folder = Path(statistics.uri) / f"Split-{split}"
        folder.mkdir(parents=True)
        (folder / "FeatureStats.pb").write_text(split)
    _, base = run_pusher(Executor, tmp_path, model, statistics=[statistics])
    expected = {**contents(model), "assets.extra/train_statistics.pb": b"train"}
    (version,) = numbered(base).values()
    assert contents(version) == expected


@pytest.mark.parametrize("blessed, infra_blessed", [(0, 1), (1, 0), (0, 0)])
def test_without_both_blessings_nothing_is_pushed(model, tmp_path, blessed, infra_blessed):
    pushed, base = run_pusher(Executor, tmp_path, model, blessed, infra_blessed)
    assert properties(pushed) == {"pushed": 0, "pushed_destination": "", "pushed_version": ""}
    assert not base.exists() and not Path(pushed.uri).exists()


def test_a_push_that_fails_publishes_nothing(model, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    # Makes the pipeline's own copy, before the version that servers see.
    monkeypatch.setattr(component, "copy_model", fail)
    with pytest.raises(OSError, match="No space left"):
        run_pusher(Executor, tmp_path, model)
    assert not (tmp_path / "serving" / "ssd").exists()


def test_a_pushed_model_takes_disk_space_once(model, tmp_path):
    pushed, base = run_pusher(Executor, tmp_path, model)
    (version,) = numbered(base).values()
    weights = "variables/variables.data-00000-of-00001"
    trained = tmp_path / "trained" / "Format-Serving" / weights
    assert trained.samefile(Path(pushed.uri) / weights)
    assert trained.samefile(version / weights)


def test_it_keeps_tfxs_name():
    pusher = Pusher(
        model=Channel(type=standard_artifacts.Model),
        push_destination=pusher_pb2.PushDestination(),
    )
    assert pusher.id == "Pusher"
    assert pusher.executor_spec.executor_class is Executor

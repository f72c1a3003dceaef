"""Resources: their `--set` syntax, and how a component's entry is merged with the one for all."""

import pytest

from data.errors import DataError
from pipeline.config import PRESETS, load_config
from pipeline.kubeflow.document import _kubernetes
from pipeline.resources import Resources, resources_of


def _of(component, *settings, preset="sample"):
    overrides = [f"resources.{setting}" for setting in settings]
    return resources_of(component, load_config(preset, overrides).resources)


def test_a_components_own_values_win_and_lists_add_up():
    settings = (
        "all.cpu=2",
        "all.cache=false",
        "all.volumes=models:/models",
        "Trainer.cpu=8.5",
        "Trainer.cache=true",
        "Trainer.volumes=work:/work,data:/data",
        "Trainer.retries=0",
        "Pusher.volumes=models:/models",
    )
    assert _of("Trainer", *settings) == Resources(
        cpu=8.5,
        cache=True,
        retries=0,
        volumes=("work:/work", "data:/data", "models:/models"),
    )
    assert _of("Pusher", *settings) == Resources(cpu=2, cache=False, volumes=("models:/models",))


def test_a_components_own_label_wins():
    found = _of("Trainer", "all.node_selector=gpu=t4,zone=a", "Trainer.node_selector=gpu=l4")
    assert _kubernetes(found)["nodeSelector"]["labels"] == {"gpu": "l4", "zone": "a"}


@pytest.mark.parametrize("preset", PRESETS)
def test_only_trainer_and_tuner_of_the_large_presets_request_a_gpu(preset):
    gpus = None if preset in ("sample", "light") else 1
    for component in ("Trainer", "Tuner"):
        assert _of(component, preset=preset).gpu_count == gpus
    assert _of("Evaluator", preset=preset) == Resources()
    assert _of("Trainer", "Trainer.gpu_count=0", preset=preset).gpu_count == 0


@pytest.mark.parametrize(
    "setting, expected",
    [
        (
            "Trainer.gpu_cout=1",
            "--set resources.Trainer.gpu_cout: unknown setting; did you mean gpu_count",
        ),
        ("Trainer.cpu=many", "resources.Trainer.cpu: 'many' must be a number"),
        ("Trainer.cpu=0", "--set resources.Trainer.cpu: '0' must be above 0"),
        ("Trainer.memory_gb=nan", "memory_gb: 'nan' must be finite"),
        ("Trainer.retries=-1", "retries: '-1' must be at least 0"),
        ("Trainer.gpu_count=1.5", "'1.5' must be a whole number"),
        ("Trainer.cache=maybe", "'maybe' must be true or false"),
        ("Trainer.node_selector=gpu", "node_selector: 'gpu' must be written as label=value"),
        (
            "Trainer.tolerations=gpu",
            "tolerations: 'gpu' must be written as key:Effect or key=value:Effect",
        ),
        ("Trainer.tolerations=gpu:Never", "tolerations: 'gpu:Never' must be written as"),
        ("all.volumes=/models", "volumes: '/models' must be written as claim:/path"),
        ("all.volumes=claim:models", "volumes: 'claim:models' must be written as claim:/path"),
        (
            "Trainer.secrets=TOKEN=secret",
            "secrets: 'TOKEN=secret' must be written as VARIABLE=secret/key",
        ),
        ("cpu=2", "--set resources.cpu: '2' must be a section with settings such as cpu"),
        ("Trainer.a.b=2", "--set resources.Trainer.a: unknown setting"),
    ],
)
def test_impossible_resources_are_rejected(setting, expected):
    with pytest.raises(DataError) as error:
        _of("Trainer", setting)
    assert expected in str(error.value)

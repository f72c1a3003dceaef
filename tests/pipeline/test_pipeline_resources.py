"""Resources: what `--set` says of them, and how a component's entry goes with the one for all."""

import pytest

from data.errors import DataError
from pipeline.config import PRESETS, load_config
from pipeline.resources import Resources, resources_of


def _of(component, *settings, preset="sample"):
    overrides = [f"resources.{setting}" for setting in settings]
    return resources_of(component, load_config(preset, overrides).resources)


def test_a_component_s_own_values_win_and_lists_add_up():
    settings = (
        "all.cpu=2",
        "all.cache=false",
        "all.volumes=models:/models",
        "Trainer.cpu=8.5",
        "Trainer.cache=true",
        "Trainer.volumes=work:/work,data:/data",
        "Trainer.retries=0",
    )
    assert _of("Trainer", *settings) == Resources(
        cpu=8.5,
        cache=True,
        retries=0,
        volumes=("work:/work", "data:/data", "models:/models"),
    )
    assert _of("Pusher", *settings) == Resources(cpu=2, cache=False, volumes=("models:/models",))


@pytest.mark.parametrize("preset", PRESETS)
def test_only_trainer_and_tuner_of_a_real_data_set_ask_for_a_gpu(preset):
    for component in ("Trainer", "Tuner"):
        assert _of(component, preset=preset).gpu_count == (None if preset == "sample" else 1)
    assert _of("Evaluator", preset=preset) == Resources()
    assert _of("Trainer", "Trainer.gpu_count=0", preset=preset).gpu_count == 0


@pytest.mark.parametrize(
    "setting, expected",
    [
        ("Trainer.gpu_cout=1", "'gpu_cout' is not known; did you mean gpu_count"),
        ("Trainer.cpu=many", "'many' is not a number"),
        ("Trainer.cpu=0", "--set resources.Trainer: cpu: 0.0 must be above 0"),
        ("Trainer.memory_gb=nan", "memory_gb: nan must be above 0"),
        ("Trainer.retries=-1", "retries: -1 must not be negative"),
        ("Trainer.gpu_count=1.5", "'1.5' is not a whole number"),
        ("Trainer.cache=no", "'no' is not true or false"),
        ("Trainer.node_selector=gpu", "node_selector: 'gpu': write label=value"),
        ("Trainer.tolerations=gpu", "tolerations: 'gpu': write key:Effect or key=value:Effect"),
        ("Trainer.tolerations=gpu:Never", "tolerations: 'gpu:Never': write"),
        ("all.volumes=/models", "volumes: '/models': write claim:/path"),
        ("all.volumes=claim:models", "volumes: 'claim:models': write claim:/path"),
        ("Trainer.secrets=TOKEN=secret", "secrets: 'TOKEN=secret': write VARIABLE=secret/key"),
        ("cpu=2", "'resources' is not known; did you mean resources.COMPONENT"),
        ("Trainer.a.b=2", "'resources.Trainer.a' is not known"),
    ],
)
def test_what_cannot_be_is_said(setting, expected):
    with pytest.raises(DataError) as error:
        _of("Trainer", setting)
    assert expected in str(error.value)

import dataclasses
import json
from pathlib import Path

import pytest

from data.errors import DataError
from data.settings_file import as_yaml
from pipeline.config import (
    DEFAULT_PRESET,
    PRESETS,
    Config,
    EvaluatorConfig,
    load_config,
    with_places,
)
from pipeline.resources import Resources
from trainer.config import TrainerConfig
from trainer.detector import detector_spec

_SNAPSHOT = Path(__file__).with_name("presets.txt")


def test_the_default_preset_is_the_sample():
    assert load_config(DEFAULT_PRESET) == PRESETS["sample"]


_HIKAPOK_ANCHORS = ["trainer.anchors=hikapok", "trainer.detector=ssd300-vgg16"]


@pytest.mark.parametrize("overrides", [_HIKAPOK_ANCHORS, _HIKAPOK_ANCHORS[::-1]])
def test_interdependent_settings_may_come_in_any_order(overrides):
    anchors = detector_spec(load_config("sample", overrides).trainer).anchors
    assert anchors.extra_square_first
    with pytest.raises(DataError, match="'hikapok' does not exist for ssd128-small; use paper"):
        detector_spec(load_config("sample", _HIKAPOK_ANCHORS[:1]).trainer)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_under_its_own_name(name):
    config = load_config(name)
    assert config.preset == name
    size = detector_spec(config.trainer).anchors.image_size
    assert config.trainer.detector.startswith(f"ssd{size}-")


def test_the_voc_preset_is_the_papers_recipe():
    trainer = load_config("ssd300-voc").trainer
    assert trainer == TrainerConfig(eval_every=5000)
    assert (trainer.detector, trainer.batch_size, trainer.steps) == ("ssd300-vgg16", 32, 120_000)
    assert (trainer.momentum, trainer.weight_decay, trainer.learning_rate) == (0.9, 5e-4, 1e-3)


def _flat(config):
    parts = {n: part for n, part in dataclasses.asdict(config).items() if isinstance(part, dict)}
    del parts["resources"]  # tests/pipeline/test_pipeline_resources.py
    return {f"{name}.{field}": part[field] for name, part in parts.items() for field in part}


def test_defaults_and_presets_match_the_snapshot(tmp_path):
    """All defaults and the presets' overrides, which decide what a command does."""
    defaults = _flat(Config("defaults"))
    lines = [f"{name} = {json.dumps(value)}" for name, value in defaults.items()]
    for preset, config in PRESETS.items():
        lines += ["", preset]
        for name, value in _flat(config).items():
            if value != defaults[name]:
                lines.append(f"  {name} = {json.dumps(value)}")
    path = tmp_path / _SNAPSHOT.name
    path.write_text("\n".join(lines) + "\n")
    assert path.read_text() == _SNAPSHOT.read_text(), f"if it is meant: cp {path} {_SNAPSHOT}"


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"sample"}))
def test_presets_for_unknown_data_accept_any_map(preset):
    assert load_config(preset).evaluator.min_map == 0


@pytest.mark.parametrize(
    ("preset", "given", "field", "value", "dropped"),
    [
        ("light", "steps", "steps", 70, "epochs"),
        ("light", "warmup_steps", "warmup_steps", 0, "warmup_fraction"),
        ("light", "eval_every", "eval_every", 0, "eval_every_epochs"),
        ("ssd300-voc", "epochs", "epochs", 30.0, "steps"),
        ("sample", "warmup_fraction", "warmup_fraction", 0.1, "warmup_steps"),
        ("ssd300-voc", "eval_every_epochs", "eval_every_epochs", 2.0, "eval_every"),
    ],
)
def test_a_given_length_replaces_the_presets(preset, given, field, value, dropped):
    assert getattr(load_config(preset).trainer, dropped) is not None
    trainer = load_config(preset, [f"trainer.{given}={value}"]).trainer
    assert getattr(trainer, field) == value
    assert getattr(trainer, dropped) is None


def test_two_lengths_at_once_are_rejected():
    both = ["trainer.steps=70", "trainer.epochs=3"]
    with pytest.raises(DataError, match="trainer: set either steps or epochs, not both"):
        load_config("light", both)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone_weights=none", "3 stages of random weights would never learn"),
        ("eval_every=0", "patience: needs eval_every"),
    ],
)
def test_settings_that_need_each_other(override, message):
    settings = ["trainer.patience=3", f"trainer.{override}"]
    with pytest.raises(DataError, match=message):
        load_config("light", settings)
    load_config("light", [*settings, "trainer.frozen_stages=0", "trainer.patience=0"])


@pytest.mark.parametrize(
    ("override", "part", "field", "value"),
    [
        ("trainer.batch_size=16", "trainer", "batch_size", 16),
        ("trainer.learning_rate=5e-3", "trainer", "learning_rate", 0.005),
        ("trainer.clip_norm=1", "trainer", "clip_norm", 1.0),
        ("trainer.augmentation=none", "trainer", "augmentation", "none"),
        ("trainer.use_difficult=false", "trainer", "use_difficult", False),
        ("trainer.use_difficult=TRUE", "trainer", "use_difficult", True),
        ("trainer.learning_rate_steps=0.5,0.75", "trainer", "learning_rate_steps", (0.5, 0.75)),
        ("trainer.learning_rate_steps=0.5", "trainer", "learning_rate_steps", (0.5,)),
        ("trainer.learning_rate_steps=", "trainer", "learning_rate_steps", ()),
        ("evaluator.min_map=0", "evaluator", "min_map", 0.0),
        ("data.schema=/a/b=c.pbtxt", "data", "schema", "/a/b=c.pbtxt"),
    ],
)
def test_overrides_of_each_type(override, part, field, value):
    config = load_config("sample", [override])
    found = getattr(getattr(config, part), field)
    assert (found, type(found)) == (value, type(value))
    changed = dataclasses.replace(getattr(PRESETS["sample"], part), **{field: value})
    assert config == dataclasses.replace(PRESETS["sample"], **{part: changed})


def test_the_last_of_several_overrides_wins():
    config = load_config(
        "sample", ["trainer.steps=5", "evaluator.min_map=0.5", "trainer.steps=7", "trainer.seed=3"]
    )
    assert (config.trainer.steps, config.trainer.seed, config.evaluator.min_map) == (7, 3, 0.5)


def test_overrides_do_not_change_the_presets():
    before = dict(PRESETS)
    load_config("sample", ["trainer.steps=5"])
    assert before == PRESETS
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["sample"].trainer.steps = 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.batchsize=16", "trainer.batchsize: unknown setting; did you mean batch_size?"),
        ("trainer.learning_rte=1", "did you mean learning_rate"),
        ("trainer.qqq=16", "trainer.qqq: unknown setting; choose from detector, .*batch_size"),
        ("trianer.batch_size=16", "trianer: unknown setting; did you mean trainer"),
        ("batch_size=16", "batch_size=16: did you mean trainer.batch_size?"),
        ("steps=16", "did you mean trainer.steps or tuner.steps?"),
        ("min_mpa=0.5", "did you mean evaluator.min_map?"),
        ("qqq=1", "write part.field=value, as in trainer.batch_size=16"),
        ("trainer.batch_size", "write part.field=value"),
        ("trainer.batch_size=", "trainer.batch_size: '' must be a whole number"),
        ("trainer.batch_size=1.5", "'1.5' must be a whole number"),
        ("trainer.learning_rate=fast", "'fast' must be a number"),
        ("trainer.learning_rate_steps=0.5,x", "'x' must be a number"),
        ("trainer.use_difficult=maybe", "'maybe' must be true or false"),
        ("trainer.batch_size=0", "trainer.batch_size: '0' must be at least 1$"),
        ("trainer.steps=-3", "trainer.steps: '-3' must be at least 1$"),
        ("trainer.learning_rate=0", "trainer.learning_rate: '0' must be above 0$"),
        ("trainer.learning_rate=nan", "trainer.learning_rate: 'nan' must be finite"),
        ("trainer.learning_rate=inf", "trainer.learning_rate: 'inf' must be finite"),
        ("trainer.weight_decay=nan", "trainer.weight_decay: 'nan' must be finite"),
        ("trainer.clip_norm=nan", "trainer.clip_norm: 'nan' must be finite"),
        ("trainer.warmup_steps=-1", "trainer.warmup_steps: '-1' must be at least 0"),
        ("trainer.momentum=1", "trainer.momentum: '1' must be below 1$"),
        ("trainer.seed=4294967296", "trainer.seed: '4294967296' must be at most 4294967295$"),
        ("trainer.learning_rate_steps=0.9,0.5", "must rise within"),
        ("trainer.learning_rate_steps=0.5,80000", "each is a fraction of trainer.steps"),
        ("trainer.detector=yolo", "trainer.detector: 'yolo' is unknown; choose from ssd300-vgg16"),
        ("trainer.detector=ssd300-vgg", "did you mean ssd300-vgg16"),
        ("trainer.augmentation=heavy", "choose from none, light, paper, hikapok"),
        ("trainer.schedule=linear", "choose from steps, cosine"),
        ("evaluator.min_map=75", "evaluator.min_map: '75' must be at most 1$"),
        ("evaluator.min_class_ap=dog:60", "'dog:60' must be written as name:value"),
        ("trainer.steps.x=1", "trainer.steps: .* must be a whole number"),
    ],
)
def test_bad_overrides_name_field_and_remedy(override, message):
    with pytest.raises(DataError, match=message) as caught:
        load_config("sample", [override])
    assert str(caught.value).startswith("--set ")
    assert "\n" not in str(caught.value)


def test_every_bad_override_gets_its_own_line():
    with pytest.raises(DataError) as caught:
        load_config("sample", ["trainer.steps=0", "data.max_skew=2", "trainer.schedule=cosine"])
    assert str(caught.value).splitlines() == [
        "--set data.max_skew: '2' must be at most 1",
        "--set trainer.steps: '0' must be at least 1",
    ]


def test_conflicting_values_name_their_section():
    with pytest.raises(DataError, match="^--set trainer: warmup_steps .200. must be less than st"):
        load_config("sample", ["trainer.steps=5", "trainer.schedule=cosine"])


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("ssd300-vco", "--preset ssd300-vco: unknown preset; did you mean ssd300-voc"),
        ("xyz", "choose from sample, light, ssd300-"),
    ],
)
def test_unknown_presets(preset, message):
    with pytest.raises(DataError, match=message):
        load_config(preset)


@pytest.fixture
def load(tmp_path):
    """Loads a configuration from the text of a file."""

    def load(text, *overrides, preset=None):
        (tmp_path / "run.yaml").write_text(text)
        return load_config(preset, overrides, tmp_path / "run.yaml")

    return load


def test_a_file_overrides_its_preset_and_overrides_win_over_the_file(load):
    text = """
        preset: ssd300-voc
        trainer: {steps: 7, learning_rate: 5e-3, learning_rate_steps: [0.5]}
        resources:
          Trainer: {cpu: 4}
        tuner:
    """
    config = load(text, "trainer.steps=9", "resources.Evaluator.retries=2")
    expected = PRESETS["ssd300-voc"]
    trainer = {"steps": 9, "learning_rate": 0.005, "learning_rate_steps": (0.5,)}
    assert config.trainer == dataclasses.replace(expected.trainer, **trainer)
    assert config.resources == {
        "Tuner": Resources(gpu_count=1),
        "Trainer": Resources(gpu_count=1, cpu=4),
        "Evaluator": Resources(retries=2),
    }
    assert (config.tuner, config.data) == (expected.tuner, expected.data)


def test_the_preset_of_a_file(load):
    assert load("tuner: {trials: 3}").preset == DEFAULT_PRESET
    assert load("tuner: {trials: 3}", preset="ssd512-voc").preset == "ssd512-voc"
    assert load("preset: ssd512-voc", preset="ssd512-voc") == PRESETS["ssd512-voc"]
    with pytest.raises(DataError, match="--preset sample: .*run.yaml has preset ssd512-voc"):
        load("preset: ssd512-voc", preset="sample")


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_a_round_trip_through_its_file(load, name):
    overrides = ["data.block_on=boxes", "evaluator.slices=objects", "resources.all.cache=false"]
    config = load_config(name, overrides)
    assert load(as_yaml(config)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "trainer:\n  batchsize: 3",
            "run.yaml, line 2: trainer.batchsize: unknown setting; did",
        ),
        ("a: 1\ntrainers: {}", "run.yaml, line 2: trainers: unknown setting; did you mean trainer"),
        (
            "\npreset: smaple",
            "run.yaml, line 2: preset: smaple: unknown preset; did you mean",
        ),
        ("preset: [1]", "run.yaml, line 1: preset: .*unknown preset"),
        ("trainer: 5", "run.yaml, line 1: trainer: 5 must be a section with settings such as det"),
        ("trainer:\n  steps: many", "run.yaml, line 2: trainer.steps: 'many' must be a whole"),
        ("trainer: {steps: true}", "trainer.steps: True must be a number"),
        ("data: {schema: 7}", "data.schema: 7 must be text"),
        ("resources: 3", "run.yaml, line 1: resources: 3 must be a section"),
        ("resources:\n  Trainer:\n    cpu: x", "line 3: resources.Trainer.cpu: 'x' must be a num"),
        ("trainer:\n  steps: 5\n  schedule: cosine", "run.yaml, line 3: trainer: warmup_steps"),
    ],
)
def test_mistakes_in_a_file_name_its_line(load, text, message):
    with pytest.raises(DataError, match=message):
        load(text)


def test_a_wrong_override_is_not_blamed_on_the_file(load):
    with pytest.raises(DataError, match="^--set trainer.steps: '0' must be at least 1$"):
        load("trainer: {steps: 5}", "trainer.steps=0")


def test_paths_become_absolute_and_keywords_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("voc", "own.pbtxt", "weights.h5"):
        (tmp_path / name).mkdir() if name == "voc" else (tmp_path / name).touch()
    config = with_places(load_config("sample"))
    assert (config.output, config.data.path) == (f"{tmp_path}/output/sample", "")
    assert (config.data.schema, config.trainer.backbone_weights) == ("sample", "none")
    overrides = ["data.schema=own.pbtxt", "trainer.backbone_weights=weights.h5", "data.path=a"]
    config = load_config("sample", overrides)
    named = with_places(config, Path("b"), Path("c"))
    assert (named.data.path, named.output) == (f"{tmp_path}/b", f"{tmp_path}/c")
    assert with_places(config).data.path == f"{tmp_path}/a"
    assert named.data.schema == f"{tmp_path}/own.pbtxt"
    assert named.trainer.backbone_weights == f"{tmp_path}/weights.h5"
    assert with_places(named) == named
    assert with_places(named, output=Path("d")).output == f"{tmp_path}/d"
    # A folder of this name is not a schema.
    assert with_places(load_config("ssd300-voc", ["data.schema=voc"])).data.schema == "voc"
    warm = load_config("sample", ["trainer.warm_start=voc"])
    assert with_places(warm).trainer.warm_start == f"{tmp_path}/voc"


def test_fields_are_checked_when_they_are_built():
    with pytest.raises(ValueError, match="batch_size"):
        Config("mine", trainer=TrainerConfig(batch_size=0))
    with pytest.raises(ValueError, match="steps"):
        dataclasses.replace(TrainerConfig(), steps=0)
    with pytest.raises(ValueError, match="min_map"):
        EvaluatorConfig(min_map=2)

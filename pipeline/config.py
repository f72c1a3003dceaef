"""The typed configuration of a run, its presets and `--set part.field=value`."""

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass, field

from components.data_gate.config import DataGateConfig
from data.errors import DataError
from pipeline.resources import Resources
from trainer.config import TrainerConfig

INFER_SCHEMA = "infer"
_RESOURCES = "resources"


@dataclass(frozen=True)
class DataConfig(DataGateConfig):
    """`schema` is `voc`, `sample`, the path of a .pbtxt, or `infer`; the rest is the data gate's.

    `infer` runs only the part of the pipeline that writes a schema from the data, for review.
    """

    schema: str = "voc"


@dataclass(frozen=True)
class EvaluatorConfig:
    """What is measured on the test split, and what a model has to reach to be blessed.

    `min_map` is the least mAP, `min_class_ap` the least AP of classes (`dog:0.6,cat:0.5`) and
    `min_slice_map` the least mAP of slices (`size=small:0.2,objects=5-9:0.4`).

    `min_map_change` is the least change of mAP against the latest blessed model: a negative one is
    a drop that is tolerated, a positive one a gain that is demanded. Chance is not a change: one
    whose 95 % confidence interval holds 0 counts as 0. So noise neither blocks a model nor, where
    a gain is demanded, blesses one. Without confidence intervals every change counts as it is, and
    without a blessed model there is nothing to compare with, so this bound does not apply.

    `slices` measures pictures apart by `objects` or `picture_size`
    (`components.mean_average_precision.picture_slices`) or by any feature of the records, such as
    `image/format`. Objects are always measured apart by size, truncated and occluded.
    `confidence_intervals` come from 20 bootstrap samples of the pictures; TFMA's jackknife does not
    fit 11-point AP, which jumps. `coco_metrics` adds COCO's scores.
    """

    min_map: float = 0.7
    min_class_ap: tuple[str, ...] = ()
    min_slice_map: tuple[str, ...] = ()
    min_map_change: float = -0.01
    slices: tuple[str, ...] = ()
    confidence_intervals: bool = True
    coco_metrics: bool = False

    def __post_init__(self):
        if not 0 <= self.min_map <= 1:
            raise ValueError(f"evaluator.min_map: {self.min_map} must be in [0, 1]")
        if not -1 <= self.min_map_change <= 1:
            raise ValueError(f"evaluator.min_map_change: {self.min_map_change} must be in [-1, 1]")
        for name in ("min_class_ap", "min_slice_map"):
            try:
                parse_bounds(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"evaluator.{name}: {error}") from None


def parse_bounds(entries: typing.Iterable[str]) -> dict[str, float]:
    """`name:least` entries as least values by name; ValueError for one that is not that."""
    bounds = {}
    for entry in entries:
        name, _, text = entry.rpartition(":")
        try:
            least = float(text)
        except ValueError:
            least = -1.0
        if not name or not 0 <= least <= 1:
            raise ValueError(f"{entry!r}: write name:least with a least value in [0, 1]")
        bounds[name] = least
    return bounds


@dataclass(frozen=True)
class TunerConfig:
    """A search for learning rate, weight decay and warm-up before the training; off by default.

    `trials` trainings of `steps` steps each are measured on the eval split (`trainer.tuning`), and
    the training takes the best values in place of the configured ones.
    """

    enabled: bool = False
    trials: int = 10
    steps: int = 1000

    def __post_init__(self):
        for name in ("trials", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"tuner.{name}: {getattr(self, name)} must be at least 1")


INFRA_VALIDATORS = ("", "docker", "kubernetes")


@dataclass(frozen=True)
class ServingConfig:
    """What a model has to show on a server before it is pushed.

    The first `check_pictures` of the test split are sent to the embedded server, one a request.
    99 % of the requests may take `max_latency_ms` at most and the server `max_memory_mb` (10^6
    bytes), both on the CPU; scores and sides of boxes may differ by `score_tolerance` from those
    that were evaluated. With `infra_validator` `docker` or `kubernetes`, TFX's InfraValidator
    asks TensorFlow Serving there instead, with as many pictures and without these limits.
    """

    check_pictures: int = 8
    max_latency_ms: float = 20_000.0
    max_memory_mb: float = 4_000.0
    score_tolerance: float = 1e-3
    infra_validator: str = ""

    def __post_init__(self):
        if self.check_pictures < 1:
            raise ValueError(f"serving.check_pictures: {self.check_pictures} must be at least 1")
        if not 0 < self.max_latency_ms <= 30_000:
            raise ValueError(
                f"serving.max_latency_ms: {self.max_latency_ms} must be above 0 and at most 30000, "
                "when a server gives up"
            )
        if not self.max_memory_mb > 0:
            raise ValueError(f"serving.max_memory_mb: {self.max_memory_mb} must be above 0")
        if not 0 <= self.score_tolerance <= 1:
            raise ValueError(f"serving.score_tolerance: {self.score_tolerance} must be in [0, 1]")
        if self.infra_validator not in INFRA_VALIDATORS:
            raise ValueError(
                f"serving.infra_validator: {self.infra_validator!r} is not known; choose docker, "
                "kubernetes, or nothing for the embedded server"
            )


@dataclass(frozen=True)
class TrainingJob(Resources):
    """Training on several hosts: a TFJob of the Kubeflow Training Operator, started by the Trainer.

    With `workers` 0 the Trainer trains itself. Otherwise each worker is a pod of `image` in
    `namespace` that gets these resources, and the Trainer, which only waits, needs no GPU
    (`resources.Trainer.gpu_count=0`). `retries` bounds how often workers are started again. The
    folder of unfinished trainings has to lie on one of `volumes`.
    """

    workers: int = 0
    image: str = ""
    namespace: str = "kubeflow"
    retries: int | None = 10

    def __post_init__(self):
        super().__post_init__()
        if self.workers < 0:
            raise ValueError(f"training_job.workers: {self.workers} must not be negative")
        if self.workers and not (self.image and self.namespace and self.volumes):
            raise ValueError(
                "training_job: workers need training_job.image, training_job.namespace and "
                "training_job.volumes"
            )


@dataclass(frozen=True)
class Config:
    """One run of the pipeline.

    `resources` says by component, or for `all`, what is asked of a cluster; a run on one machine
    has no use for it.
    """

    preset: str
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tuner: TunerConfig = field(default_factory=TunerConfig)
    evaluator: EvaluatorConfig = field(default_factory=EvaluatorConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)
    training_job: TrainingJob = field(default_factory=TrainingJob)
    resources: typing.Mapping[str, Resources] = field(default_factory=dict)


_VOC = Config(
    preset="ssd300-voc",
    trainer=TrainerConfig(eval_every=5000),
    # The Tuner's short trainings are trainings too.
    resources={name: Resources(gpu_count=1) for name in ("Tuner", "Trainer")},
)


def _voc(preset: str, detector: str) -> Config:
    """The VOC preset with another detector."""
    trainer = dataclasses.replace(_VOC.trainer, detector=detector)
    return dataclasses.replace(_VOC, preset=preset, trainer=trainer)


PRESETS = {
    config.preset: config
    for config in (
        Config(
            preset="sample",
            data=DataConfig(schema="sample"),
            trainer=TrainerConfig(
                detector="ssd128-small",
                augmentation="light",
                batch_size=16,
                steps=2400,
                learning_rate=0.05,
                warmup_learning_rate=0.005,
                warmup_steps=200,
                learning_rate_steps=(0.7, 0.9),
                clip_norm=10.0,
                log_every=100,
                checkpoint_every=400,
            ),
            tuner=TunerConfig(steps=200),
            evaluator=EvaluatorConfig(min_map=0.8),
            serving=ServingConfig(max_latency_ms=2_000.0, max_memory_mb=2_000.0),
        ),
        _VOC,
        _voc("ssd512-voc", "ssd512-vgg16"),
        _voc("ssd300-mobilenet", "ssd300-mobilenet"),
        _voc("ssd300-resnet50", "ssd300-resnet50"),
    )
}
DEFAULT_PRESET = "sample"


def load_config(preset: str, overrides: typing.Sequence[str] = ()) -> Config:
    """A preset with `part.field=value` overrides applied, checked.

    Raises:
        DataError: an unknown preset, part or field (near misses are named), or a bad value.
    """
    config = PRESETS.get(preset)
    if config is None:
        raise DataError(f"--preset {preset}: {_unknown(preset, PRESETS)}")
    changes: dict[str, dict] = {}
    for override in overrides:
        part, name, value = _parse(config, override)
        changes.setdefault(part, {})[name] = value
    # Fields of a part are checked together, once all of them are set.
    for part, values in changes.items():
        try:
            config = _with_part(config, part, dataclasses.replace(_part(config, part), **values))
        except ValueError as error:
            where = f" {part}" if part.startswith(_RESOURCES) else ""
            raise DataError(f"--set{where}: {error}") from error
    devices = config.training_job.workers * (config.training_job.gpu_count or 1)
    if devices and config.trainer.batch_size % devices:
        raise DataError(
            f"trainer.batch_size: {config.trainer.batch_size} pictures cannot be dealt out evenly "
            f"to the {devices} devices of training_job. Set it to a multiple"
        )
    return config


def _part(config: Config, name: str):
    """The part of a configuration that `name` names; `resources.COMPONENT` is one too."""
    head, dot, component = name.partition(".")
    if head == _RESOURCES and dot:
        return config.resources.get(component, Resources())
    return getattr(config, name)


def _with_part(config: Config, name: str, part) -> Config:
    head, dot, component = name.partition(".")
    if head == _RESOURCES and dot:
        name, part = head, {**config.resources, component: part}
    return dataclasses.replace(config, **{name: part})


def _parse(config: Config, override: str) -> tuple[str, str, object]:
    key, equals, text = override.partition("=")
    part_name, dot, name = key.rpartition(".")
    if not equals or not dot:
        raise DataError(f"--set {override}: write part.field=value, as in trainer.batch_size=16")
    parts = {f.name for f in dataclasses.fields(config) if f.name not in ("preset", _RESOURCES)}
    if not re.fullmatch(rf"{_RESOURCES}\.\w+", part_name) and part_name not in parts:
        known = {*parts, f"{_RESOURCES}.COMPONENT"}
        raise DataError(f"--set {override}: {_unknown(part_name, known)}")
    hints = typing.get_type_hints(type(_part(config, part_name)))
    if name not in hints:
        raise DataError(f"--set {override}: {_unknown(name, hints)}")
    try:
        return part_name, name, _convert(text, hints[name])
    except ValueError as error:
        raise DataError(f"--set {override}: {error}") from error


def _convert(text: str, wanted):
    """A command-line value as the type of its field."""
    if isinstance(wanted, types.UnionType):
        wanted = typing.get_args(wanted)[0]
    if typing.get_origin(wanted) is tuple:
        item = typing.get_args(wanted)[0]
        return tuple(_convert(part, item) for part in text.split(",") if part.strip())
    if wanted is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is not true or false")
        return text.lower() == "true"
    if wanted is str:
        return text
    try:
        return wanted(text)
    except ValueError:
        kind = "a whole number" if wanted is int else "a number"
        raise ValueError(f"{text!r} is not {kind}") from None


def _unknown(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(known))}"
    return f"{name!r} is not known; {hint}"

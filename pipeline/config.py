"""The typed configuration of a run, its presets and `--set part.field=value`."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from components.data_gate.config import DataGateConfig
from data.errors import DataError, did_you_mean
from data.options import ConversionOptions
from data.settings import CHECKED, Fraction, Names, Settings, field_types, one_of, parse
from data.settings_file import read_settings
from data.splits import SPLITS, TEST
from pipeline.resources import ImageName, ObjectName, Resources
from trainer.config import IMAGENET_WEIGHTS, TrainerConfig, only_the_given

INFER_SCHEMA = "infer"
FIND_SCHEMA = "auto"


@dataclass(frozen=True, config=CHECKED)
class DataConfig(DataGateConfig, ConversionOptions):
    """The data, its schema, how annotations are converted, and the limits of the data gate."""

    path: str = ""
    """As given with `--data`; empty draws the sample data set."""
    schema: str = FIND_SCHEMA
    """Path of a .pbtxt, `voc`, `sample`, `infer` or `auto`. `infer` runs only the part of the
    pipeline that infers a schema from the data, for review. `auto` takes `schema.pbtxt` in the
    records' folder, as a conversion writes it, or else VOC's."""

    @property
    def root(self) -> Path | None:
        """`path` as a path; None for the sample data set."""
        return Path(self.path) if self.path else None


def parse_bounds(entries: Iterable[str]) -> dict[str, float]:
    """Lower bounds by name from entries `name:value`; ValueError for other text."""
    bounds = {}
    for entry in entries:
        name, _, text = entry.rpartition(":")
        try:
            least = float(text)
        except ValueError:
            least = -1.0
        if not name or not 0 <= least <= 1:
            raise ValueError("must be written as name:value with a value in [0, 1]")
        bounds[name] = least
    return bounds


def _check_bound(entry: str) -> str:
    parse_bounds([entry])
    return entry


_Bound = Annotated[str, AfterValidator(_check_bound)]


@dataclass(frozen=True, config=CHECKED)
class EvaluatorConfig(Settings):
    """What is measured on the test split, and what a model needs to be blessed."""

    min_map: Fraction = 0.0
    """Minimum mAP. The default accepts any, since a good value depends on the data."""
    min_class_ap: tuple[_Bound, ...] = ()
    """Minimum AP per class: `dog:0.6,cat:0.5`."""
    min_slice_map: tuple[_Bound, ...] = ()
    """Minimum mAP per slice: `size=small:0.2,objects=5-9:0.4`."""
    min_map_change: float = Field(default=-0.01, ge=-1, le=1)
    """Minimum change of mAP from the latest blessed model: a negative value tolerates a drop, a
    positive one demands a gain. A change whose 95 % confidence interval contains 0 is not
    significant and treated as 0, so noise neither blocks a model nor blesses one. Without
    confidence intervals every change counts in full. Does not apply without a blessed model."""
    slices: tuple[str, ...] = ()
    """Also slice pictures by these: `objects`, `picture_size` or any feature of the records, such
    as `image/format`. Objects are always sliced by size, truncated and occluded."""
    confidence_intervals: bool = True
    """From 20 bootstrap samples of the pictures; TFMA's jackknife does not suit 11-point AP, which
    is not smooth."""
    coco_metrics: bool = False
    """Also compute COCO's metrics."""


@dataclass(frozen=True, config=CHECKED)
class TunerConfig(Settings):
    """A search for learning rate, weight decay and warm-up before the training, off by default.

    Trials are scored on the eval split (`trainer.tuning`); the training uses the best values
    instead of the configured ones.
    """

    enabled: bool = False
    trials: int = Field(default=10, ge=1)
    steps: int = Field(default=1000, ge=1)
    """Per trial."""


@dataclass(frozen=True, config=CHECKED)
class BulkInferrerConfig(Settings):
    """Runs the blessed model on whole splits, with TFX's BulkInferrer; off by default."""

    enabled: bool = False
    splits: tuple[Annotated[str, one_of(SPLITS)], ...] = Field(default=(TEST,), min_length=1)


@dataclass(frozen=True, config=CHECKED)
class ServingConfig(Settings):
    """What a model must achieve on a server, on the CPU, before it is pushed."""

    check_pictures: int = Field(default=8, ge=1)
    """The first pictures of the test split, one per request."""
    max_latency_ms: float = Field(default=20_000.0, gt=0, le=30_000)
    """Limit on the 99th percentile; a server gives up after 30 seconds."""
    max_memory_mb: float = Field(default=4_000.0, gt=0)
    """10^6 bytes."""
    score_tolerance: Fraction = 1e-3
    """Largest difference of scores and box coordinates from the evaluated ones."""
    infra_validator: Annotated[str, one_of(("", "docker", "kubernetes"))] = ""
    """`docker` or `kubernetes`: TFX's InfraValidator queries TensorFlow Serving there instead of
    the embedded server, without these limits."""


@dataclass(frozen=True, config=CHECKED)
class TrainingJob(Resources):
    """Training on several hosts: a Kubernetes Indexed Job, started by the Trainer.

    Each worker is a pod with these resources. The Trainer itself only waits and needs no GPU
    (`resources.Trainer.gpu_count=0`). The folder of unfinished trainings must be on one of
    `volumes`.
    """

    workers: int = Field(default=0, ge=0)
    """0 trains in the Trainer."""
    image: ImageName = ""
    namespace: ObjectName = "kubeflow"
    queue: ObjectName = ""
    """A LocalQueue of Kueue, which starts the Job once there is room for all workers."""
    retries: int | None = Field(default=10, ge=0)
    """How often a worker may fail. The loss of a node or of another worker does not count."""

    @model_validator(mode="after")
    def _workers_have_a_place(self) -> Self:
        if self.workers and not (self.image and self.namespace and self.volumes):
            raise ValueError("workers need image, namespace and volumes")
        return self


@dataclass(frozen=True, config=CHECKED)
class Config(Settings):
    """One run of the pipeline."""

    preset: str
    output: str = ""
    """Output folder of runs on this machine; empty means output/PRESET."""
    data: DataConfig = Field(default_factory=DataConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    tuner: TunerConfig = Field(default_factory=TunerConfig)
    evaluator: EvaluatorConfig = Field(default_factory=EvaluatorConfig)
    serving: ServingConfig = Field(default_factory=ServingConfig)
    bulk_inferrer: BulkInferrerConfig = Field(default_factory=BulkInferrerConfig)
    training_job: TrainingJob = Field(default_factory=TrainingJob)
    resources: Mapping[str, Resources] = Field(default_factory=dict)
    """Requests to a cluster, by component or for `all`; a run on one machine ignores them."""

    @model_validator(mode="after")
    def _batch_fits_the_workers(self) -> Self:
        devices = self.training_job.workers * (self.training_job.gpu_count or 1)
        if devices and self.trainer.batch_size % devices:
            raise ValueError(
                f"trainer.batch_size: {self.trainer.batch_size} must be a multiple of "
                f"the {devices} devices of training_job"
            )
        return self


_VOC = Config(
    preset="ssd300-voc",
    trainer=TrainerConfig(eval_every=5000),
    # The Tuner trains too.
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
        Config(
            preset="light",
            trainer=TrainerConfig(
                detector="ssd300-lite0",
                backbone_weights=IMAGENET_WEIGHTS,
                frozen_stages=3,
                augmentation="light",
                batch_size=16,
                steps=None,
                epochs=50,
                learning_rate=0.06,
                backbone_rate=0.02,
                schedule="cosine",
                warmup_steps=None,
                warmup_fraction=0.1,
                warmup_learning_rate=0.0006,
                weight_decay=4e-5,
                clip_norm=10.0,
                log_every=20,
                checkpoint_every=200,
                eval_every=None,
                eval_every_epochs=2,
            ),
            tuner=TunerConfig(steps=200),
            serving=ServingConfig(max_latency_ms=4_000.0, max_memory_mb=2_000.0),
        ),
        _VOC,
        _voc("ssd512-voc", "ssd512-vgg16"),
        _voc("ssd300-mobilenet", "ssd300-mobilenet"),
        _voc("ssd300-resnet50", "ssd300-resnet50"),
    )
}
DEFAULT_PRESET = "sample"


def load_config(
    preset: str | None = None, overrides: Sequence[str] = (), file: Path | None = None
) -> Config:
    """A preset, changed by a YAML file and then by `part.field=value` overrides, checked.

    Args:
        preset: by default the one in `file`, or else `DEFAULT_PRESET`.

    Raises:
        DataError: an unknown preset, part or field, or a bad value.
    """
    given, lines = read_settings(file) if file else ({}, {})
    origins = {names: f"{file}, line {line}: " for names, line in lines.items()}
    if "preset" in given:
        if preset not in (None, given["preset"]):
            raise DataError(f"--preset {preset}: {file} has preset {given['preset']}. Drop one")
        preset = str(given["preset"])
        where = f"{origins[('preset',)]}preset: {preset}"
    else:
        preset = preset or DEFAULT_PRESET
        where = f"--preset {preset}"
    if preset not in PRESETS:
        raise DataError(f"{where}: unknown preset; {did_you_mean(preset, PRESETS)}")
    values = _merge(dataclasses.asdict(PRESETS[preset]), given)
    _drop_other_lengths(values, origins)
    for override in overrides:
        names, text = _split(override)
        _put(values, names, text)
        origins[names] = "--set "
    _drop_other_lengths(values, [_split(override)[0] for override in overrides])

    def source(names: Names) -> str:
        below = [origins[path] for path in origins if path[: len(names)] == names]
        return below[-1] if below else ""

    return parse(Config, values, source)


def _drop_other_lengths(values: dict[str, Any], given: Iterable[Names]) -> None:
    """If `steps` is given, the preset's or file's `epochs` is dropped, and so on."""
    fields = {names[1] for names in given if len(names) == 2 and names[0] == "trainer"}
    if isinstance(values["trainer"], dict):
        only_the_given(values["trainer"], fields)


def with_places(config: Config, data: Path | None = None, output: Path | None = None) -> Config:
    """The configuration of a run on this machine, with absolute paths, valid in any folder.

    Args:
        data, output: override the configured ones.
    """

    def absolute(path: str | Path, is_one: Callable[[Path], bool] = lambda _: True) -> str:
        return str(Path(path).resolve()) if path and is_one(Path(path)) else str(path)

    trainer = dataclasses.replace(
        config.trainer,
        backbone_weights=absolute(config.trainer.backbone_weights, Path.is_file),
        warm_start=absolute(config.trainer.warm_start, Path.is_dir),
    )
    return dataclasses.replace(
        config,
        output=absolute(output or config.output or Path("output", config.preset)),
        data=dataclasses.replace(
            config.data,
            path=absolute(data or config.data.path),
            schema=absolute(config.data.schema, Path.is_file),
        ),
        trainer=trainer,
    )


def _merge(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Merges nested dicts; `given` wins."""
    merged = dict(values)
    for name, value in given.items():
        old = values.get(name)
        if isinstance(old, dict) and isinstance(value, dict | None):
            value = _merge(old, value or {})
        merged[name] = value
    return merged


def _split(override: str) -> tuple[Names, str]:
    """Splits `part.field=value` into names and value."""
    key, equals, text = override.partition("=")
    names = tuple(key.split("."))
    if equals and len(names) > 1:
        return names, text
    hint = "write part.field=value, as in trainer.batch_size=16"
    parts = _parts_by_field()
    if equals and (near := difflib.get_close_matches(key, parts, n=1)):
        hint = f"did you mean {' or '.join(f'{part}.{near[0]}' for part in parts[near[0]])}?"
    raise DataError(f"--set {override}: {hint}")


def _parts_by_field() -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for part, kind in field_types(Config).items():
        if isinstance(kind, type) and issubclass(kind, Settings):
            for field in field_types(kind):
                parts.setdefault(field, []).append(part)
    return parts


def _put(values: dict[str, Any], names: Names, value: Any) -> None:
    """Sets a value in nested dicts."""
    *sections, last = names
    for name in sections:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[last] = value

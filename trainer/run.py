"""TFX's entry point: `run_fn` reads the Trainer's arguments, trains and exports."""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

import keras
import tensorflow as tf
import tensorflow_transform as tft

from data.errors import DataError, reason_of
from data.interrupts import when_interrupted
from data.record_folder import read_records
from trainer import (
    checkpoints,
    continuation,
    devices,
    export,
    input_pipeline,
    reporting,
    selection,
)
from trainer.anchors import anchor_boxes
from trainer.config import BOOKKEEPING, ConfigInSteps, TrainerConfig, in_steps
from trainer.detector import DetectorSpec, build_network, detector_spec, freeze_stages
from trainer.files import SUMMARY
from trainer.preprocessing import ENCODED
from trainer.training import StepLosses, train
from trainer.weights import load_backbone_weights
from trainer.weights.saved_model import load_base_model

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

_Config = TypeVar("_Config", bound=TrainerConfig)
_log = logging.getLogger("ssd.trainer")


def run_fn(fn_args: "FnArgs | SimpleNamespace") -> None:
    """Trains and exports (TFX's Trainer contract).

    `fn_args.custom_config` holds `trainer`, the fields of a TrainerConfig; `classes`, the names in
    the order of their ids; `preset` and `code_version`, for the record; and `work_dir`, where
    unfinished runs keep their checkpoints (`work_folder`). A run with the same configuration, data
    and code resumes from them; once it is done they move to `fn_args.model_run_dir` with
    TensorBoard's logs, where a longer run finds them (`trainer.continuation`).
    `fn_args.base_model`, if given, is the model to start from. `fn_args.hyperparameters` is a
    Tuner's result, whose values override the configured ones.
    """
    facts = dict(fn_args.custom_config)
    job = Job.from_arguments(fn_args)
    network = job.new_network()
    config = job.config
    _log.info(
        "  detector=%s classes=%d parameters=%.1fM anchors=%d pictures=%d epochs=%.1f devices=%s",
        config.detector,
        len(job.classes),
        network.count_params() / 1e6,
        network.output_shape[0][1],
        job.num_records,
        config.steps * config.batch_size / job.num_records,
        devices.describe(job.strategy),
    )
    run_dir = Path(fn_args.model_run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    identity = {
        "preset": facts["preset"],
        "trainer": dataclasses.asdict(config),
        "code_version": facts["code_version"],
        "data": job.data_facts,
        "base_model": job.base_model,
        # A path is not enough: files change.
        "starting_weights_sha256": weights_hash(network),
    }
    # Not part of `identity`: an exported model holds its classes anyway.
    decisive = {**identity, "classes": list(job.classes)}
    work_dir = work_folder(Path(facts["work_dir"]), decisive)
    if devices.is_chief(job.strategy):
        _warn(config, work_dir)
        continuation.continue_finished(work_dir, run_dir, decisive)
    devices.wait_for_all(job.strategy)
    served = job.new_detector()
    try:
        with when_interrupted(lambda: _how_to_resume(work_dir, config)):
            losses, best = job.train(network, served, work_dir)
    except FloatingPointError as error:
        raise DataError(str(error)) from error
    if not devices.is_chief(job.strategy):
        devices.wait_for_all(job.strategy)
        return
    if best:
        _log.info("  exported step=%d eval_mAP=%.4f", best.step, best.score)
    # Identifies this model wherever it is copied.
    identity["weights_sha256"] = weights_hash(served.network)
    identity["exported"] = {
        "step": best.step if best else config.steps,
        "eval_map": best.score if best else None,
    }
    pictures = _pictures(job.eval_shards, job.records)
    model_dir = Path(fn_args.serving_model_dir)
    with _written_to(model_dir, work_dir):
        export.export(served, model_dir, identity, pictures)
    summary = {
        **decisive,
        **identity,
        "losses": dataclasses.asdict(losses) if losses else None,
    }
    with _written_to(run_dir, work_dir):
        (work_dir / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        _move(work_dir, run_dir)
    devices.wait_for_all(job.strategy)


@dataclass(frozen=True)
class Job:
    """A configuration with all lengths in steps, and the data to train on."""

    config: ConfigInSteps
    classes: tuple[str, ...]
    records: input_pipeline.TransformedRecords
    shards: list[str]
    eval_shards: list[str]
    strategy: tf.distribute.Strategy
    base_model: str | None = None

    @classmethod
    def from_arguments(cls, fn_args: "FnArgs | SimpleNamespace") -> "Job":
        """From what TFX passes to a `run_fn`; DataError if the data cannot be read."""
        # First: TensorFlow must connect the workers' devices before it computes anything.
        strategy = devices.choose_strategy()
        facts = fn_args.custom_config
        fields = reporting.with_reporting(facts["trainer"])
        given = with_values(TrainerConfig(**fields), fn_args.hyperparameters)
        devices.check_fit(given, strategy)
        shards = input_pipeline.list_shards(fn_args.train_files)
        return cls(
            config=in_steps(given, lambda: input_pipeline.count_records(shards)[0]),
            strategy=strategy,
            classes=tuple(facts["classes"]),
            records=input_pipeline.TransformedRecords(
                tft.TFTransformOutput(fn_args.transform_graph_path)
            ),
            shards=shards,
            eval_shards=input_pipeline.list_shards(fn_args.eval_files),
            base_model=fn_args.base_model,
        )

    @property
    def spec(self) -> DetectorSpec:
        """The configured detector's."""
        return detector_spec(self.config)

    @cached_property
    def data_facts(self) -> dict:
        """Size and fingerprint of the train split; the eval split's fingerprint if it is used."""
        count, fingerprint = input_pipeline.count_records(self.shards)
        facts = {"train_records": count, "train_fingerprint": fingerprint}
        if self.config.eval_every:
            facts["eval_fingerprint"] = input_pipeline.count_records(self.eval_shards)[1]
        return facts

    @property
    def num_records(self) -> int:
        """Number of training pictures."""
        return self.data_facts["train_records"]

    def new_network(self) -> keras.Model:
        """The network with its initial weights."""
        keras.utils.set_random_seed(self.config.seed)
        with self.strategy.scope():
            network = build_network(self.spec, len(self.classes), self.config.precision)
            if self.base_model:
                load_base_model(network, self.config, self.classes, self.base_model)
            else:
                load_backbone_weights(
                    network, self.spec, self.classes, self.config.backbone_weights
                )
        freeze_stages(network, self.spec, self.config.frozen_stages)
        devices.synchronise_normalisation(network, self.strategy)
        return network

    def new_detector(self) -> export.ServedDetector:
        """The detector to export, float32 and on one device; it gets its weights from training."""
        network = build_network(self.spec, len(self.classes))
        return export.ServedDetector(
            network, self.spec.anchors, self.classes, self.records, self.config
        )

    def train(
        self, network: keras.Model, served: export.ServedDetector, work_dir: Path
    ) -> tuple[StepLosses | None, selection.Best | None]:
        """Trains `network` and gives `served` the weights to export.

        Resumes from what `work_dir` holds. Of several workers only the chief's `served` gets the
        best weights.

        Returns:
          The losses of the last step, as from `training.train`, and the best step on the eval
          split, None if that was not measured.

        Raises:
          FloatingPointError: the loss is no longer finite.
        """
        folder, logs = work_dir / "checkpoints", work_dir / "logs"
        evaluate = self._evaluation(network, served, folder)
        anchors = anchor_boxes(self.spec.anchors)
        with self.strategy.scope():
            losses = train(network, anchors, self._batches, self.config, folder, logs, evaluate)
        served.network.set_weights(network.get_weights())
        best = selection.restore_best(folder, served.network.variables) if evaluate else None
        return losses, best

    def _evaluation(
        self, network: keras.Model, served: export.ServedDetector, folder: Path
    ) -> Callable[[int], float] | None:
        """Returns a function that measures a step and keeps the best; None to measure nothing."""
        if not self.config.eval_every or not devices.is_chief(self.strategy):
            return None
        split = selection.EvalSplit(self.eval_shards, self.records, self.classes)
        if split.num_pictures < selection.FEW_PICTURES:
            _log.warning(
                "  the eval split has %d pictures: with fewer than %d, which checkpoint is best is "
                "mostly noise. Move pictures to it, or export the last checkpoint with "
                "trainer.eval_every=0",
                split.num_pictures,
                selection.FEW_PICTURES,
            )
        steps = self.config.steps

        def evaluate(step: int) -> float:
            served.network.set_weights(network.get_weights())
            score = split.mean_average_precision(served.serving_examples)
            best = selection.keep_if_best(folder, step, score, served.network.variables)
            _log.info("  step=%d/%d eval_mAP=%.4f%s", step, steps, score, " best" * best)
            return score

        return evaluate

    def _batches(self, first_step: int, context: tf.distribute.InputContext) -> tf.data.Dataset:
        return input_pipeline.training_batches(
            self.shards,
            self.records,
            self.config,
            self.spec.anchors.image_size,
            self.num_records,
            first_step,
            context,
        )


def with_values(config: _Config, hyperparameters: dict | None) -> _Config:
    """The configuration with the values of a Tuner's hyperparameters."""
    return dataclasses.replace(config, **(hyperparameters or {}).get("values", {}))


def weights_hash(network: keras.Model) -> str:
    """Fingerprint of the values of all of a network's variables."""
    digest = hashlib.sha256()
    for values in network.get_weights():
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]


def work_folder(root: Path, identity: dict) -> Path:
    """Where a training keeps its checkpoints until it is done; depends on what decides its result.

    Args:
      identity: JSON values, with the configuration as `trainer`.
    """
    settings = {n: value for n, value in identity["trainer"].items() if n not in BOOKKEEPING}
    text = json.dumps({**identity, "trainer": settings}, sort_keys=True)
    return root / hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _written_to(folder: Path, work_dir: Path) -> Iterator[None]:
    """Turns a failed write of the results into a DataError that says how to resume."""
    try:
        yield
    except (OSError, tf.errors.ResourceExhaustedError) as error:
        # shutil.Error lists (from, to, reason) for each file.
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else str(error)
        raise DataError(
            f"{folder}: the results cannot be written ({reason_of(reason)}). Free disk "
            f"space and rerun: training resumes from the last checkpoint, in {work_dir}"
        ) from error


def _move(folder: Path, target: Path) -> None:
    """Moves a folder to an empty one; needs twice the space only across file systems.

    If interrupted at any point, one of the two is complete.
    """
    try:
        folder.rename(target)
    except OSError:
        shutil.copytree(folder, target, dirs_exist_ok=True)
        # Leftovers must not fail a finished training.
        shutil.rmtree(folder, ignore_errors=True)


def _warn(config: ConfigInSteps, work_dir: Path) -> None:
    """Logs what the user may not have intended."""
    if config.warmup_steps >= config.steps:
        _log.warning(
            "  trainer.warmup_steps=%d is not less than trainer.steps=%d: the learning rate never "
            "reaches trainer.learning_rate",
            config.warmup_steps,
            config.steps,
        )
    others = [path for path in work_dir.parent.glob("*/checkpoints") if path.parent != work_dir]
    if others and not work_dir.exists():
        _log.info(
            "  new training; unfinished with other settings, data or code: %d in %s (rerun with "
            "those settings to resume)",
            len(others),
            work_dir.parent,
        )


def _how_to_resume(work_dir: Path, config: TrainerConfig) -> str:
    """The advice printed after an interrupt."""
    kept = checkpoints.steps_on_disk(work_dir / "checkpoints")
    if kept:
        return f"rerun the same command to resume from step {kept[0][0]}"
    return (
        "rerun the same command to start the training again "
        f"(the first checkpoint is written at step {config.checkpoint_every})"
    )


def _pictures(shards: Sequence[str], records: input_pipeline.TransformedRecords) -> list[bytes]:
    """The first encoded pictures of a split."""
    batch = next(iter(read_records(shards).batch(2)))
    return list(records(batch)[ENCODED].numpy())

"""TFX's way into the trainer: `run_fn` reads the Trainer's arguments and calls plain functions."""

import dataclasses
import hashlib
import json
import logging
import shutil
from pathlib import Path

import keras
import tensorflow as tf
import tensorflow_transform as tft

from data.errors import DataError
from trainer import export, input_pipeline
from trainer.anchors import anchor_boxes
from trainer.config import TrainerConfig
from trainer.detector import build_network, detector_spec
from trainer.preprocessing import ENCODED
from trainer.training import train
from trainer.weights import load_backbone_weights

_log = logging.getLogger("ssd.trainer")

# Left in `model_run` for the command line and the report.
SUMMARY = "summary.json"


def run_fn(fn_args) -> None:
    """Trains and exports (TFX's Trainer contract).

    `fn_args.custom_config` holds `trainer`, the fields of a TrainerConfig; `classes`, the names in
    the order of their ids; `preset` and `code_version`, for the record; `work_dir`, where the
    checkpoints of unfinished runs wait. A run with the same configuration, data and code goes on
    from them; when it is done they move to `fn_args.model_run_dir` with TensorBoard's logs.
    `fn_args.hyperparameters`, if given, holds `excluded_records`, which the data gate found in
    another split too.
    """
    facts = dict(fn_args.custom_config)
    config = TrainerConfig(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in facts["trainer"].items()
        }
    )
    spec = detector_spec(config)
    records = input_pipeline.TransformedRecords(tft.TFTransformOutput(fn_args.transform_output))
    shards = input_pipeline.list_shards(fn_args.train_files)
    excluded = (fn_args.hyperparameters or {}).get("excluded_records", [])
    keep = input_pipeline.leaving_out(excluded, records.id_feature)
    num_records, fingerprint = input_pipeline.count_records(shards, keep)
    keras.utils.set_random_seed(config.seed)
    network = build_network(spec, len(facts["classes"]))
    load_backbone_weights(network, spec, facts["classes"], config.backbone_weights)
    _log.info(
        "  detector=%s classes=%d parameters=%.1fM anchors=%d pictures=%d epochs=%.1f devices=%s",
        config.detector,
        len(facts["classes"]),
        network.count_params() / 1e6,
        network.output_shape[0][1],
        num_records,
        config.steps * config.batch_size / num_records,
        ",".join(sorted({d.device_type for d in tf.config.list_logical_devices()})),
    )

    def make_batches(first_step):
        return input_pipeline.training_batches(
            shards, records, config, spec.anchors.image_size, num_records, first_step, keep
        )

    run_dir = Path(fn_args.model_run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    identity = {
        "preset": facts["preset"],
        "trainer": dataclasses.asdict(config),
        "code_version": facts["code_version"],
        "data": {
            "train_records": num_records,
            "train_fingerprint": fingerprint,
            "excluded_records": len(excluded),
        },
    }
    work_dir = Path(facts["work_dir"]) / _digest({**identity, "classes": facts["classes"]})
    try:
        losses = train(
            network,
            anchor_boxes(spec.anchors),
            make_batches,
            config,
            checkpoint_dir=work_dir / "checkpoints",
            log_dir=work_dir / "logs",
        )
    except FloatingPointError as error:
        raise DataError(str(error)) from error
    served = export.ServedDetector(network, spec.anchors, facts["classes"], records)
    export.export(
        served, Path(fn_args.serving_model_dir), identity, _pictures(fn_args.eval_files, records)
    )
    shutil.copytree(work_dir, run_dir, dirs_exist_ok=True)
    summary = {**identity, "losses": dataclasses.asdict(losses) if losses else None}
    (run_dir / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work_dir)


def _digest(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _pictures(patterns, records) -> list[bytes]:
    """The first encoded pictures of a split."""
    shards = input_pipeline.list_shards(patterns)
    batch = next(iter(input_pipeline.read_shards(shards).batch(2)))
    return list(records(batch)[ENCODED].numpy())

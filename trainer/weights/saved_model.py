"""Starts from an exported model: a pushed version or a Trainer's output."""

import json
import logging
import re
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from data.errors import DataError
from data.saved_model import IDENTITY, SAVED_MODEL_FILE
from trainer.anchors import anchors_hash
from trainer.config import TrainerConfig
from trainer.detector import detector_spec
from trainer.files import WEIGHTS

_log = logging.getLogger("ssd.trainer")

# The folder in a model artifact where TFX's Trainer writes the model and looks for an imported one.
_TFX_FOLDER = "Format-Serving"
_HEAD = re.compile(r"(box|class)_head\d+[_/]")


def check_base_model(path: str, config: TrainerConfig) -> str:
    """The folder of the SavedModel at `path`, whose backbone fits the configured detector.

    Args:
      path: a pushed version, a Trainer's model artifact, or the SavedModel in it.

    Raises:
        DataError: there is no such model, or its detector or anchors differ.
    """
    folder = _locate(path)
    facts = _read_facts(folder)
    spec = detector_spec(config)
    own = {"detector": config.detector, "anchors hash": anchors_hash(spec.anchors)}
    try:
        found = {"detector": facts["trainer"]["detector"], "anchors hash": facts["anchors_hash"]}
    except KeyError as error:
        raise DataError(f"{folder}/{IDENTITY}: has no {error}. Give a newer model") from error
    for name, wanted in own.items():
        if found[name] != wanted:
            raise DataError(
                f"{folder}: cannot start from it: its {name} is {found[name]}, this run's is "
                f"{wanted}. Use the trainer.detector and trainer.anchors it was trained with "
                f"(anchors {facts['trainer']['anchors']}), or leave trainer.warm_start empty"
            )
    return folder


def load_base_model(
    network: keras.Model, config: TrainerConfig, class_names: Sequence[str], path: str
) -> None:
    """Loads the weights of an exported model into a new network and logs which.

    The heads are loaded only if the classes and their ids are the same.

    Raises:
        DataError: as `check_base_model`; or a layer is missing or has another shape. The network is
          unchanged then.
    """
    folder = check_base_model(path, config)
    same_classes = list(class_names) == _read_facts(folder)["classes"]
    stored = _read_weights(folder)
    wanted = [v for v in network.variables if same_classes or not _HEAD.match(v.path)]
    for variable in wanted:
        found = stored[variable.path].shape if variable.path in stored else "none"
        if found != tuple(variable.shape):
            raise DataError(
                f"{folder}: {variable.path}: the network has weights of {tuple(variable.shape)}, "
                f"the model {found}. It was exported by other code; leave trainer.warm_start empty"
            )
    for variable in wanted:
        variable.assign(stored[variable.path])
    loaded = {path.rpartition("/")[0] for path in (v.path for v in wanted)}
    heads = {layer for layer in loaded if _HEAD.match(f"{layer}/")}
    _log.info(
        "  warm start: backbone %d layers from %s, heads %s",
        len(loaded - heads),
        folder,
        f"{len(heads)} layers from there too" if same_classes else "new (classes differ)",
    )


def _locate(path: str) -> str:
    folder = str(path).rstrip("/")
    candidates = (folder, f"{folder}/{_TFX_FOLDER}", folder.removesuffix(f"/{_TFX_FOLDER}"))
    for candidate in candidates:
        if tf.io.gfile.exists(f"{candidate}/{SAVED_MODEL_FILE}"):
            return candidate
    raise DataError(
        f"trainer.warm_start: {path}: no SavedModel there. Give the folder of a pushed version "
        "(with saved_model.pb in it), or `latest` for the latest blessed model"
    )


def _read_facts(folder: str) -> dict:
    try:
        with tf.io.gfile.GFile(f"{folder}/{IDENTITY}", "r") as file:
            return json.loads(file.read())
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(
            f"{folder}/{IDENTITY}: cannot be read ({error}), so the model is unknown. Give "
            "one that this pipeline exported"
        ) from error


def _read_weights(folder: str) -> dict[str, np.ndarray]:
    """{path of a variable: its value} from what `export` wrote."""
    try:
        reader = tf.train.load_checkpoint(f"{folder}/variables/variables")
        keys = [key for key in reader.get_variable_to_shape_map() if key.startswith(f"{WEIGHTS}/")]
        return {_variable_path(key): reader.get_tensor(key) for key in keys}
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(f"{folder}/variables: cannot be read ({error})") from error


def _variable_path(key: str) -> str:
    """`WEIGHTS/12:conv1.Skernel/.ATTRIBUTES/VARIABLE_VALUE` -> `conv1/kernel`."""
    # TensorFlow escapes a dot in a name as `..` and a slash as `.S`.
    name = re.sub(r"\.(.)", lambda found: "/" if found[1] == "S" else found[1], key.split("/")[1])
    return name.partition(":")[2]

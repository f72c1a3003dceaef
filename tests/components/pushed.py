"""A model to push, and helpers to inspect a push's result."""

from pathlib import Path

import numpy as np
import tensorflow as tf


def write_model(folder: Path) -> Path:
    """Writes a SavedModel in the layout of `trainer.export`, which adds 1 to x."""
    module = tf.Module()
    module.one = tf.Variable(np.float32(1))
    module.many = tf.Variable(np.zeros(20_000, np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serving_default(x):
        return {"y": x + module.one + module.many[0]}

    module.function = serving_default
    tf.saved_model.save(module, str(folder), signatures=serving_default)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "model.json").write_text('{"preset": "tiny"}\n')
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def numbered(base: Path) -> dict[int, Path]:
    """The folders that a server treats as versions."""
    return {int(path.name): path for path in base.iterdir() if path.name.isdigit()}


def assert_whole(base: Path, model: Path) -> None:
    """Asserts that every version equals the model byte for byte."""
    wanted = contents(model)
    for folder in numbered(base).values():
        assert contents(folder) == wanted, folder


def leftovers(base: Path) -> list[str]:
    """Everything but the versions and the lock."""
    return sorted(p.name for p in base.iterdir() if not p.name.isdigit() and p.name != ".push.lock")

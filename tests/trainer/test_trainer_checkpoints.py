import errno
import logging
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from data.errors import DataError
from trainer import checkpoints


@pytest.fixture
def warnings():
    """The trainer's warnings."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    log = logging.getLogger("ssd.trainer")
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


def _state(seed=0):
    """Variables of a small network and its optimiser, with values from the seed."""
    layers = [keras.Input((3,)), keras.layers.Dense(2, name="dense")]
    network = keras.Sequential(layers, name="network")
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, name="sgd")
    optimizer.build(network.trainable_variables)
    variables = [*network.variables, *optimizer.variables]
    rng = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(rng.uniform(0, 100, variable.shape).astype(variable.dtype))
    return variables


def _values(variables):
    return [keras.ops.convert_to_numpy(v) for v in variables]


def _assert_same(variables, wanted):
    for value, other in zip(_values(variables), _values(wanted), strict=True):
        np.testing.assert_array_equal(value, other)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_with_the_optimiser(tmp_path):
    saved, restored = _state(0), _state(1)
    assert len(saved) == 6
    path = checkpoints.save(tmp_path / "new" / "folder", 7, saved, keep=2)
    assert path.name == "step-00000007.npz"
    assert checkpoints.restore_latest(tmp_path / "new" / "folder", restored) == 7
    _assert_same(restored, saved)


@pytest.mark.parametrize("exists", [False, True])
def test_without_a_checkpoint_nothing_changes(tmp_path, exists):
    folder = tmp_path if exists else tmp_path / "none"
    state, untouched = _state(), _state()
    assert checkpoints.restore_latest(folder, state) == 0
    _assert_same(state, untouched)


def test_only_the_newest_are_kept(tmp_path):
    for step in (3, 20, 100, 4):
        checkpoints.save(tmp_path, step, _state(step), keep=2)
    assert _names(tmp_path) == ["step-00000020.npz", "step-00000100.npz"]
    restored = _state()
    assert checkpoints.restore_latest(tmp_path, restored) == 100
    _assert_same(restored, _state(100))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def _flip(path):
    data = bytearray(path.read_bytes())
    # In the first array's values, after its 128-byte header.
    data[data.index(b"NUMPY") + 130] ^= 0xFF
    path.write_bytes(data)


def _set_in_directory(offset, value):
    """Damages the archive's description of its last array."""

    def damage(path):
        data = bytearray(path.read_bytes())
        data[data.rindex(b"PK\x01\x02") + offset] = value
        path.write_bytes(data)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        _set_in_directory(8, 1),
        _set_in_directory(10, 99),
        _set_in_directory(10, 12),
        _set_in_directory(10, 14),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: np.savez(path, other=np.zeros(3)),
    ],
    ids=[
        *("truncated", "flipped", "encrypted", "unknown compression", "bzip2", "lzma"),
        *("empty", "text", "other content"),
    ],
)
def test_a_damaged_newest_file_falls_back_to_the_one_before(tmp_path, warnings, damage):
    checkpoints.save(tmp_path, 10, _state(10), keep=2)
    damage(checkpoints.save(tmp_path, 20, _state(20), keep=2).with_suffix(".npz"))
    restored = _state()
    assert checkpoints.restore_latest(tmp_path, restored) == 10
    _assert_same(restored, _state(10))
    (message,) = warnings
    assert "damaged" in message
    assert "step-00000020.npz" in message


def test_a_large_array_marked_as_compressed_is_damage(tmp_path, warnings):
    path = tmp_path / "file.npz"
    checkpoints.write(path, {"large": np.zeros(9999)})
    _set_in_directory(10, 14)(path)
    assert checkpoints.read(path, ["large"]) is None
    assert len(warnings) == 1


def test_variables_of_the_same_name_stay_apart(tmp_path):
    saved, restored = ([keras.Variable(v, name="v") for v in pair] for pair in ((1, 2), (0, 0)))
    checkpoints.save(tmp_path, 1, saved, keep=2)
    checkpoints.restore_latest(tmp_path, restored)
    _assert_same(restored, saved)


def test_a_file_gets_its_name_when_it_is_on_disk(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(checkpoints.os, "fsync", lambda _: names.append(_names(tmp_path)))
    checkpoints.write(tmp_path / "file.npz", {"a": 1})
    assert names == [["file.tmp"]]


def test_training_starts_over_if_all_files_are_damaged(tmp_path, warnings):
    for step in (1, 2):
        _truncate(checkpoints.save(tmp_path, step, _state(step), keep=2))
    state = _state()
    assert checkpoints.restore_latest(tmp_path, state) == 0
    _assert_same(state, _state())
    assert len(warnings) == 2


def test_leftovers_of_a_killed_run_are_ignored(tmp_path):
    checkpoints.save(tmp_path, 5, _state(5), keep=2)
    (tmp_path / "step-00000009.tmp").write_bytes(b"half a file")
    (tmp_path / "step-9.npz").write_bytes(b"another name")
    assert [step for step, _ in checkpoints.steps_on_disk(tmp_path)] == [5]
    assert checkpoints.restore_latest(tmp_path, _state()) == 5
    # The resumed run writes the same step again.
    checkpoints.save(tmp_path, 9, _state(9), keep=2)
    assert checkpoints.restore_latest(tmp_path, _state()) == 9
    assert "step-00000009.tmp" not in _names(tmp_path)


def test_a_full_disk_keeps_the_old_checkpoints(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoints.save(tmp_path, step, _state(step), keep=2)
    before = _names(tmp_path)

    def half_written(entry, *_, **__):
        entry.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", half_written)
    message = r"step-00000003.npz: .*\(No space left on device\). Free disk"
    with pytest.raises(DataError, match=message):
        checkpoints.save(tmp_path, 3, _state(3), keep=2)
    assert _names(tmp_path) == before
    restored = _state()
    assert checkpoints.restore_latest(tmp_path, restored) == 2
    _assert_same(restored, _state(2))


# A file size limit: writing beyond it fails like on a full disk.
_FULL_DISK = """
import resource, sys
from data.console import quiet
quiet()
from pathlib import Path
import numpy as np
from data.errors import DataError
from trainer import checkpoints

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for size in (12_450, 1_000_000):
    try:
        checkpoints.write(Path(sys.argv[1]), {"small": np.zeros(9), "large": np.zeros(size)})
    except DataError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_reported_once(tmp_path):
    """One file fails on close, the other before; both leave nothing behind."""
    path = tmp_path / "step-00000001.npz"
    ended = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, path],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert ended.stdout.count(f"{path}: the checkpoint cannot be written (File too large)") == 2
    assert ended.stderr == ""
    assert _names(tmp_path) == []


def test_a_folder_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="step-00000003.npz: the checkpoint cannot be written"):
        checkpoints.save(tmp_path / "file" / "ckpt", 3, _state(3), keep=2)

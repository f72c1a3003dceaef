import errno
import gc
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tfx.utils import io_utils

from components.atomic_push import push as push_module
from components.atomic_push.push import push
from data.errors import DataError
from serving.model_server.manager import AVAILABLE, ModelManager
from serving.model_server.model_config import ModelConfig, latest
from serving.model_server.status import StatusError
from tests.components.pushed import assert_whole, contents, leftovers, numbered, write_model


@pytest.fixture
def no_links(monkeypatch):
    """Makes the base a different file system from the model's."""

    def fail(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "Format-Serving")


def test_a_version_is_the_model_named_by_the_time_of_the_push(model, tmp_path):
    base = tmp_path / "serving" / "ssd"
    before = int(time.time())
    version = push(str(model), str(base))
    assert before <= version <= time.time()
    assert list(numbered(base)) == [version]
    assert_whole(base, model)
    assert leftovers(base) == []


@pytest.mark.parametrize(
    "names, now, wanted",
    [
        ([], 1000.9, 1000),
        (["7"], 1000.0, 1000),
        (["999"], 1000.0, 1000),
        (["1000"], 1000.0, 1001),
        (["0005000"], 1000.0, 5001),
        (["3000000000", "12"], 1000.0, 3000000001),
        (["9000x", "tmp-9000", "९०००", "-9000"], 1000.0, 1000),
    ],
)
def test_versions_increase_whatever_the_clock_says(
    model, tmp_path, monkeypatch, names, now, wanted
):
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(time, "time", lambda: now)
    assert push(str(model), str(tmp_path)) == wanted
    assert push(str(model), str(tmp_path)) == wanted + 1


def test_a_push_removes_only_the_leftovers_of_an_interrupted_one(model, tmp_path):
    for name in (".123.partial", "123", "staging", ".5.partial.txt", ".x.partial"):
        (tmp_path / name / "variables").mkdir(parents=True)
        (tmp_path / name / "variables" / "data").write_text("kept")
    version = push(str(model), str(tmp_path))
    assert leftovers(tmp_path) == [".5.partial.txt", ".x.partial", "staging"]
    assert sorted(numbered(tmp_path)) == [123, version]
    assert contents(tmp_path / "123") == {"variables/data": b"kept"}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "saved_model.pb").unlink(), "saved_model.pb is missing"),
        (lambda folder: (folder / "saved_model.pb").write_bytes(b""), "saved_model.pb is missing"),
        (
            lambda folder: (folder / "saved_model.pb").write_bytes(b"\xff" * 99),
            "saved_model.pb is missing or broken",
        ),
        (lambda folder: (folder / "assets.extra" / "model.json").unlink(), "model.json"),
        (shutil.rmtree, "saved_model.pb is missing"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "ram://"])
def test_only_our_models_are_pushed(model, tmp_path, spoil, message, scheme):
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    spoil(broken)
    base = f"{scheme}{tmp_path}/serving"
    with pytest.raises(DataError, match=message):
        push(str(broken), base)
    assert set(tf.io.gfile.listdir(base)) <= {".push.lock"}


def test_a_copy_that_differs_from_its_source_is_not_pushed(model, tmp_path, no_links, monkeypatch):
    def copy_half(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:-1])

    monkeypatch.setattr(tf.io.gfile, "copy", copy_half)
    with pytest.raises(DataError, match="variables.data-00000-of-00001"):
        push(str(model), str(tmp_path))
    assert numbered(tmp_path) == {}
    assert leftovers(tmp_path) == []


def test_a_full_disk_does_not_change_the_versions(model, tmp_path, no_links):
    first = push(str(model), str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses to write files larger than this, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(DataError, match="the push failed.*has space"):
            push(str(model), str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(numbered(tmp_path)) == [first]
    assert leftovers(tmp_path) == []
    push(str(model), str(tmp_path))
    assert_whole(tmp_path, model)


@pytest.mark.parametrize("owner, name", [(os, "fsync"), (Path, "rename"), (Path, "iterdir")])
def test_system_errors_do_not_change_the_versions(model, tmp_path, monkeypatch, owner, name):
    first = push(str(model), str(tmp_path))

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(DataError, match="Input/output error"):
            push(str(model), str(tmp_path))
    assert list(numbered(tmp_path)) == [first]
    assert leftovers(tmp_path) == []


def test_a_version_is_on_the_disk_before_and_after_it_gets_its_name(model, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        push_module, "_sync", lambda path: synced.append((path, numbered(tmp_path)))
    )
    version = push(str(model), str(tmp_path))
    *before, (last, there) = synced
    assert (last, list(there)) == (tmp_path, [version])
    partial = tmp_path / f".{version}.partial"
    assert {path.relative_to(partial).as_posix() for path, _ in before} >= contents(model).keys()
    assert not any(there for _, there in before)


def killed_at_line(number: int, model: Path, base: Path) -> bool:
    """Pushes in a child process that kills itself before line `number`; False if it finished."""
    child = os.fork()
    if child == 0:
        passed = 0

        def trace(frame, event, _):
            nonlocal passed
            code = frame.f_code
            if code.co_filename != push_module.__file__ or code.co_name in ("_files", "_sync"):
                return None  # reading, or waiting for the disk, changes nothing
            if event == "line":
                passed += 1
                if passed == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            push(str(model), str(base))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.slow
def test_a_push_killed_anywhere_leaves_only_complete_versions(model, tmp_path):
    old = push(str(model), str(tmp_path))
    line, seen = 1, Counter()
    while killed_at_line(line, model, tmp_path):
        assert_whole(tmp_path, model)
        (new,) = numbered(tmp_path).keys() - {old} or [None]
        # Each push cleans up after the previous, killed one.
        assert len(leftovers(tmp_path)) <= 1
        seen[new is not None, len(leftovers(tmp_path))] += 1
        if new:
            shutil.rmtree(tmp_path / str(new))
        line += 1
    assert_whole(tmp_path, model)
    assert leftovers(tmp_path) == []
    # Killed before the copy began, during it, and after the rename.
    assert seen[False, 0] > 5 and seen[False, 1] > 30 and seen[True, 0] > 1
    assert set(seen) == {(False, 0), (False, 1), (True, 0)}


def watch(base: Path, model: Path, stop: threading.Event, broken: list[str]) -> int:
    """Reads each version once listed; returns their number, adds broken ones to `broken`."""
    wanted = contents(model)
    seen = set()
    while True:
        last = stop.is_set()
        for number, folder in numbered(base).items():
            if number not in seen:
                seen.add(number)
                if contents(folder) != wanted:
                    broken.append(folder.name)
        if last:
            return len(seen)


def serve(base: Path, stop: threading.Event) -> tuple[int, list[str]]:
    """Polls like the server, without pauses; returns the number of loads and all errors."""
    loads, errors = set(), []
    manager = ModelManager([ModelConfig("m", base, latest())])
    while not stop.is_set():
        manager.poll()
        try:
            with manager.use("m") as (number, servable):
                answer = servable.run("", {"x": np.array([number % 100], np.float32)})
                if answer["y"] != [number % 100 + 1]:
                    errors.append(f"{number} answers {answer}")
        except StatusError as error:
            errors.append(str(error))
        for status in manager.statuses("m"):
            if status.error:
                errors.append(str(status.error))
            if status.state == AVAILABLE:
                loads.add(status.version)
    return len(loads), errors


@pytest.mark.slow
def test_polling_servers_never_see_an_unfinished_version(model, tmp_path):
    push(str(model), str(tmp_path))
    stop, broken = threading.Event(), []
    gc.freeze()  # like the server: each unload collects garbage
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(watch, tmp_path, model, stop, broken)
        server = pool.submit(serve, tmp_path, stop)
        try:
            for _ in range(220):
                push(str(model), str(tmp_path))
        finally:
            stop.set()
        assert (reader.result(), broken) == (221, [])
        loads, errors = server.result()
    gc.unfreeze()
    assert errors == []
    assert loads >= 5


def test_the_watch_notices_copying_in_place_as_in_tfx(model, tmp_path):
    """Control for the test above: copying under the final name is noticed."""
    stop, broken = threading.Event(), []
    number = 0
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(watch, tmp_path, model, stop, broken)
        # Usually the first copy is caught, but that depends on thread scheduling.
        while not broken and number < 5000:
            io_utils.copy_dir(str(model), str(tmp_path / str(number)))
            number += 1
        stop.set()
        reader.result()
    assert broken


def test_concurrent_pushes_wait_for_each_other(model, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda _: push(str(model), str(tmp_path)), range(24)))
    assert len(set(versions)) == 24
    assert sorted(numbered(tmp_path)) == sorted(versions)
    assert_whole(tmp_path, model)


@pytest.fixture
def store(tmp_path):
    """A base folder on a file system that is not local."""
    return f"ram://{tmp_path}/ssd"


def stored(folder: str) -> dict[str, bytes]:
    """All files below a folder on any file system."""
    return {
        f"{place}/{name}"[len(folder) + 1 :]: tf.io.gfile.GFile(f"{place}/{name}", "rb").read()
        for place, _, names in tf.io.gfile.walk(folder)
        for name in names
    }


def test_on_an_object_store_saved_model_comes_last(model, store, monkeypatch):
    copied, copy = [], tf.io.gfile.copy

    def record(source, target):
        copied.append(target)
        return copy(source, target)

    monkeypatch.setattr(tf.io.gfile, "copy", record)
    first = push(str(model), f"{store}/")
    assert copied[-1] == f"{store}/{first}/saved_model.pb" and len(copied) == len(contents(model))
    second = push(str(model), store)
    assert second > first
    assert sorted(tf.io.gfile.listdir(store)) == [str(first), str(second)]
    for version in (first, second):
        assert stored(f"{store}/{version}") == contents(model)


def test_a_copy_on_an_object_store_is_checked_before_it_can_be_loaded(model, store, monkeypatch):
    copy = tf.io.gfile.copy

    def copy_half(source, target):
        copy(source, target)
        if "variables.data" in target:
            with tf.io.gfile.GFile(target, "w") as file:
                file.write("half")

    monkeypatch.setattr(tf.io.gfile, "copy", copy_half)
    with pytest.raises(DataError, match="variables.data-00000-of-00001. Nothing was pushed"):
        push(str(model), store)
    assert stored(store) == {}


@pytest.mark.parametrize("calls", range(6))
def test_the_next_push_cleans_up_after_a_failing_object_store(model, store, monkeypatch, calls):
    first = push(str(model), store)
    foreign = f"{store}/77/notes.txt"
    tf.io.gfile.makedirs(f"{store}/77")
    with tf.io.gfile.GFile(foreign, "w") as file:
        file.write("not ours")
    left, copy = calls, tf.io.gfile.copy

    def fail(*_):
        raise tf.errors.UnavailableError(None, None, "network is unreachable")

    def fail_later(source, target):
        nonlocal left
        left -= 1
        return copy(source, target) if left >= 0 else fail()

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "copy", fail_later)
        # The connection stays down, so this push cannot clean up itself.
        patch.setattr(tf.io.gfile, "rmtree", fail)
        patch.setattr(tf.io.gfile, "remove", fail)
        with pytest.raises(DataError, match="network is unreachable"):
            push(str(model), store)
    loadable = [n for n in tf.io.gfile.listdir(store) if "saved_model.pb" in stored(f"{store}/{n}")]
    for version in loadable:
        assert stored(f"{store}/{version}") == contents(model)
    assert len(loadable) == (2 if calls == len(contents(model)) else 1)
    last = push(str(model), store)
    assert {*loadable, "77", str(last)} == set(tf.io.gfile.listdir(store))
    assert str(first) in loadable and last > max(map(int, loadable))
    assert stored(f"{store}/77") == {"notes.txt": b"not ours"}

import gc
import shutil
import threading
import time
import weakref

import pytest

from data.errors import DataError
from serving.model_server.manager import ModelManager
from serving.model_server.model_config import ModelConfig, latest, read_metrics_path, read_models
from serving.model_server.status import StatusError


class FakeServable:
    """A fake model: loads if there is a saved_model.pb that does not say "bad"."""

    loaded: list["FakeServable"] = []

    def __init__(self, folder):
        file = folder / "saved_model.pb"
        if not file.is_file() or file.read_text() == "bad":
            raise StatusError("NOT_FOUND", f"broken {folder.name}")
        self.name = folder.name
        self.closed = False
        self.loaded.append(self)

    def close(self):
        assert not self.closed
        self.closed = True
        self.loaded.remove(self)


@pytest.fixture(autouse=True)
def _none_loaded():
    FakeServable.loaded = []


@pytest.fixture
def base(tmp_path):
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def _push(base, version, content="good"):
    folder = base / f"tmp-{version}"
    folder.mkdir()
    (folder / "saved_model.pb").write_text(content)
    folder.rename(base / str(version))


def _manager(base, policy=None, labels=None, **options):
    config = ModelConfig("m", base, policy or latest(), labels or {})
    return ModelManager([config], FakeServable, **options)


def _states(manager):
    return {status.version: status.state for status in manager.statuses("m")}


def _serving(manager, **named):
    with manager.use("m", **named) as (number, servable):
        assert servable.name == str(number)
        return number


def test_the_new_version_is_loaded_before_the_old_one_is_unloaded(base):
    manager = _manager(base)
    manager.poll()
    assert not manager.ready()
    with pytest.raises(StatusError, match="NOT_FOUND: model m has no version in service"):
        _serving(manager)
    _push(base, 1)
    manager.poll()
    assert manager.ready()
    assert _serving(manager) == 1
    (base / "9.tmp").mkdir()
    (base / "nine").mkdir()
    _push(base, 10)
    counts = []
    original = FakeServable.__init__
    try:
        FakeServable.__init__ = lambda self, folder: (
            counts.append([s.name for s in FakeServable.loaded]),
            original(self, folder),
        )[1]
        manager.poll()
    finally:
        FakeServable.__init__ = original
    assert counts == [["1"]], "the old one stays loaded while the new one loads"
    assert _serving(manager) == 10
    assert _states(manager) == {10: "AVAILABLE", 1: "END"}
    with pytest.raises(StatusError, match="NOT_FOUND: version 1 of model m"):
        _serving(manager, number=1)


def test_a_broken_version_leaves_the_old_one_in_service(base):
    manager = _manager(base, max_load_retries=1, retry_interval_s=0.0)
    _push(base, 2)
    manager.poll()
    _push(base, 3, "bad")
    manager.poll()
    assert _states(manager) == {3: "LOADING", 2: "AVAILABLE"}
    manager.poll()
    assert _states(manager) == {3: "END", 2: "AVAILABLE"}
    (broken,) = manager.statuses("m", 3)
    assert (broken.error.code, broken.error.message) == ("NOT_FOUND", "broken 3")
    manager.poll()
    assert _serving(manager) == 2
    _push(base, 4)
    manager.poll()
    assert _states(manager) == {4: "AVAILABLE", 3: "END", 2: "END"}


def test_a_version_is_retried_as_soon_as_its_file_appears(base):
    manager = _manager(base, retry_interval_s=3600.0)
    (base / "1").mkdir()
    manager.poll()
    manager.poll()
    assert _states(manager) == {1: "LOADING"}
    (base / "1" / "saved_model.pb").write_text("good")
    manager.poll()
    assert _states(manager) == {1: "AVAILABLE"}
    assert manager.statuses("m")[0].error is None


def test_a_version_completed_in_place_is_retried_at_each_change(base):
    class NeedsAll(FakeServable):
        def __init__(self, folder):
            super().__init__(folder)
            if not (folder / "variables" / "variables.index").is_file():
                self.close()
                raise StatusError("DATA_LOSS", "no variables")

    manager = ModelManager([ModelConfig("m", base, latest())], NeedsAll, retry_interval_s=3600.0)
    _push(base, 1)
    manager.poll()
    (base / "1" / "variables").mkdir()
    manager.poll()
    assert _states(manager) == {1: "LOADING"}
    (base / "1" / "variables" / "variables.index").write_text("")
    manager.poll()
    assert _states(manager) == {1: "AVAILABLE"}


def test_removing_the_latest_rolls_back_and_removing_all_unloads(base):
    manager = _manager(base)
    for version in (3, 4):
        _push(base, version)
        manager.poll()
    assert _states(manager) == {4: "AVAILABLE", 3: "END"}
    shutil.rmtree(base / "4")
    manager.poll()
    assert _states(manager) == {4: "END", 3: "AVAILABLE"}
    assert _serving(manager) == 3
    shutil.rmtree(base / "3")
    manager.poll()
    assert _states(manager) == {4: "END", 3: "END"}
    assert FakeServable.loaded == []


def test_a_base_folder_that_cannot_be_read_changes_nothing(base, caplog):
    manager = _manager(base)
    _push(base, 1)
    manager.poll()
    base.rename(base.with_name("elsewhere"))
    for _ in range(3):
        manager.poll()
        assert _serving(manager) == 1
    (line,) = caplog.messages
    assert "cannot list the versions" in line and str(base) in line
    base.with_name("elsewhere").rename(base)
    _push(base, 2)
    manager.poll()
    assert _serving(manager) == 2


def test_a_version_in_use_is_unloaded_only_afterwards(base):
    manager = _manager(base)
    _push(base, 1)
    manager.poll()
    with manager.use("m") as (_, servable):
        _push(base, 2)
        manager.poll()
        assert not servable.closed
        assert _states(manager) == {2: "AVAILABLE", 1: "UNLOADING"}
        assert _serving(manager) == 2
    manager.poll()
    assert servable.closed
    assert _states(manager) == {2: "AVAILABLE", 1: "END"}


def test_a_version_wanted_again_while_unloading_stays(base):
    manager = _manager(base)
    _push(base, 1)
    manager.poll()
    with manager.use("m"):
        _push(base, 2)
        manager.poll()
        shutil.rmtree(base / "2")
        manager.poll()
    manager.poll()
    assert _states(manager) == {2: "END", 1: "AVAILABLE"}
    assert [servable.name for servable in FakeServable.loaded] == ["1"]


def test_policies(base, tmp_path):
    for version in (1, 2, 3):
        _push(base, version)
    text = 'model_config_list {{ config {{ name: "m" base_path: "{}" {} }} }}'
    for policy, expected in [
        ("", [3]),
        ("model_version_policy { all {} }", [1, 2, 3]),
        ("model_version_policy { latest { num_versions: 2 } }", [2, 3]),
        ("model_version_policy { specific { versions: 1 versions: 7 } }", [1]),
    ]:
        path = tmp_path / "models.config"
        path.write_text(text.format(base, policy))
        manager = ModelManager(read_models(path), FakeServable)
        manager.poll()
        assert sorted(_states(manager)) == expected


def test_labels(base):
    manager = _manager(base, sorted, {"stable": 1, "future": 9})
    for version in (1, 2):
        _push(base, version)
    manager.poll()
    assert _serving(manager, label="stable") == 1
    with pytest.raises(StatusError, match="INVALID_ARGUMENT: model m has no label x"):
        _serving(manager, label="x")
    with pytest.raises(StatusError, match="NOT_FOUND: version 9 of model m"):
        _serving(manager, label="future")
    manager.configure([ModelConfig("m", base, sorted, {"stable": 2})])
    manager.poll()
    assert _serving(manager, label="stable") == 2


def test_a_label_moves_only_to_a_version_in_service(base):
    """TensorFlow Serving's rule: server_core.cc of 2.16.1, UpdateModelVersionLabelMap."""
    manager = _manager(base, lambda versions: [1], {"stable": 1})
    _push(base, 1)
    manager.poll()
    _push(base, 2)
    both = ModelConfig("m", base, sorted, {"stable": 2, "canary": 1})
    with pytest.raises(StatusError, match="FAILED_PRECONDITION: label stable .* version 2"):
        manager.configure([both])
    manager.poll()
    assert _states(manager) == {1: "AVAILABLE"}, "the new policy was not applied either"
    with pytest.raises(StatusError, match="no label canary"):
        _serving(manager, label="canary")
    manager.configure([ModelConfig("m", base, sorted, {"stable": 1})])
    manager.poll()
    manager.configure([both])
    assert _serving(manager, label="stable") == 2, "before the next poll"
    assert _serving(manager, label="canary") == 1


def test_a_model_removed_from_the_configuration_is_unloaded(base):
    manager = _manager(base)
    _push(base, 1)
    manager.poll()
    manager.configure([])
    manager.poll()
    assert FakeServable.loaded == []


def test_a_model_that_never_loads_fails_the_start(base):
    manager = _manager(base, max_load_retries=0)
    _push(base, 1, "bad")
    manager.poll()
    with pytest.raises(StatusError, match="m version 1 .* does not load: broken 1"):
        manager.ready()


def test_unknown_models_and_versions(base):
    manager = _manager(base)
    _push(base, 1)
    manager.poll()
    with pytest.raises(StatusError, match="NOT_FOUND: no model n"):
        manager.statuses("n")
    with pytest.raises(StatusError, match="NOT_FOUND: model m has no version 5"):
        manager.statuses("m", 5)


def test_hundreds_of_pushes_are_never_seen_half_complete(base):
    manager = _manager(base, max_load_retries=0)
    _push(base, 1)
    manager.poll()
    stop = threading.Event()

    def poll():
        while not stop.is_set():
            manager.poll()

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        for version in range(2, 302):
            _push(base, version)
            assert _serving(manager) <= version
        deadline = time.monotonic() + 10
        while _serving(manager) != 301 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        stop.set()
        poller.join()
    assert _serving(manager) == 301
    assert [s for s in manager.statuses("m") if s.error] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list { confg {} }", "not a ModelServerConfig in text format"),
        ("", "no model in model_config_list"),
        ('model_config_list { config { name: "a" } }', "without name or base_path"),
        (
            'model_config_list { config { name: "a" base_path: "/a" } '
            'config { name: "a" base_path: "/b" } }',
            "a, a in model_config_list",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "caffe" } }',
            "model_platform is 'caffe'",
        ),
    ],
)
def test_bad_model_configurations(tmp_path, text, message):
    path = tmp_path / "models.config"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        read_models(path)
    assert str(path) in str(raised.value)


def test_a_base_path_that_is_a_version(tmp_path, base):
    _push(base, 1)
    path = tmp_path / "models.config"
    path.write_text(f'model_config_list {{ config {{ name: "m" base_path: "{base / "1"}" }} }}')
    with pytest.raises(DataError, match="is a single version") as raised:
        read_models(path)
    assert str(raised.value).endswith(f": {base}")


def test_monitoring_configuration(tmp_path):
    path = tmp_path / "monitoring.config"
    path.write_text('prometheus_config { enable: true path: "/metrics" }')
    assert read_metrics_path(path) == "/metrics"
    path.write_text("prometheus_config { enable: true }")
    assert read_metrics_path(path) == "/monitoring/prometheus/metrics"
    path.write_text("prometheus_config { }")
    assert read_metrics_path(path) is None
    with pytest.raises(DataError, match="none.config: cannot be read"):
        read_metrics_path(tmp_path / "none.config")


def test_a_version_that_fails_to_load_is_freed(base):
    created = []

    class Broken(FakeServable):
        def __init__(self, folder):
            created.append(weakref.ref(self))
            super().__init__(folder)

    _push(base, 1, "bad")
    manager = ModelManager([ModelConfig("m", base, latest())], Broken)
    manager.poll()
    gc.collect()
    (status,) = manager.statuses("m")
    assert str(status.error) == "NOT_FOUND: broken 1"
    assert [reference() for reference in created] == [None]

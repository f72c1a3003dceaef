"""Random sequences of commands against a model of TensorFlow Serving's rules for labels."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from data.errors import DataError
from serving.model_server.model_config import read_config, read_models
from serving.rollout import labels_and_served, promote, rollback, serve_latest


class Refused(Exception):
    """FAILED_PRECONDITION on reload."""


class TensorFlowServing:
    """What TensorFlow Serving 2.16.1 does with a configuration, read from its source.

    tensorflow_serving/model_servers/server_core.cc, `ReloadConfig`: it calls
    `UpdateModelVersionLabelMap`, and only if that succeeds `AddModelsViaModelConfigList`, which
    applies the version policy. The former refuses a label whose version is not AVAILABLE, unless
    --allow_version_labels_for_unavailable_models is set and the label is new or does not change.
    core/availability_preserving_policy.cc: a version that is no longer wanted is unloaded once one
    that is wanted is available.
    """

    def __init__(self, broken: set[int]):
        self.available: set[int] = set()
        self.labels: dict[str, int] = {}
        self._broken = broken
        self._policy = None

    def poll_config(self, path: Path) -> None:
        """One reading of the configuration file."""
        (model,) = read_config(path).model_config_list.config
        for label, version in model.version_labels.items():
            changes = self.labels.get(label, version) != version
            if changes and version not in self.available:
                raise Refused(f"label {label} to version {version}, available {self.available}")
        self.labels = dict(model.version_labels)
        self._policy = read_models(path)[0].policy

    def poll_folders(self, complete: list[int], loads: int) -> None:
        """Loads up to `loads` of the wanted versions that are missing, highest first."""
        wanted = set(self._policy(complete)) if self._policy else set()
        missing = sorted(wanted - self.available - self._broken, reverse=True)
        self.available.update(missing[:loads])
        if wanted & self.available:
            self.available &= wanted


class Rollouts(RuleBasedStateMachine):
    """Pushes and commands, with two servers polling at random times in between."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.base, self.config = self.folder / "m", self.folder / "models.config"
        self.config.write_text(
            f'model_config_list {{ config {{ name: "m" base_path: "{self.base}" }} }}'
        )
        self.complete: list[int] = []
        self.broken: set[int] = set()
        self.servers = [TensorFlowServing(self.broken) for _ in range(2)]
        self.unseen: set[int] = set()  # servers that have not polled since the last command
        self.push(broken=False)
        self.push(broken=False)
        self._settle()

    def teardown(self):
        shutil.rmtree(self.folder)

    def _settle(self):
        for number, _ in enumerate(self.servers):
            self.poll(number, 9)

    @rule(broken=st.sampled_from([False, False, False, True]))
    def push(self, broken):
        version = len(self.complete) + 1
        (self.base / str(version)).mkdir(parents=True)
        (self.base / str(version) / "saved_model.pb").touch()
        self.complete.append(version)
        if broken:
            self.broken.add(version)

    @rule(number=st.integers(0, 1), loads=st.integers(0, 2))
    def poll(self, number, loads):
        self.servers[number].poll_config(self.config)
        self.unseen.discard(number)
        self.poll_folders(number, loads)

    @rule(number=st.integers(0, 1), loads=st.integers(0, 2))
    def poll_folders(self, number, loads):
        server = self.servers[number]
        named = server.available.intersection(server.labels.values())
        server.poll_folders(self.complete, loads)
        assert named <= server.available, "labelled versions stay"

    @rule(number=st.integers(0, 1))
    def restart(self, number):
        restarted = TensorFlowServing(self.broken)
        restarted.poll_config(self.config)
        restarted.poll_folders(self.complete, 9)
        if restarted.available:  # else all wanted versions are broken, which no command caused
            self.servers[number] = restarted
            self.unseen.discard(number)

    def _wait(self, version, changed):
        """Like --url: asks until all servers have it."""
        if changed:
            self._settle()
        for number, server in enumerate(self.servers):
            if version not in server.available:
                self.poll(number, 9)
            if version not in server.available:
                raise DataError("does not load")
        return True

    def _loaded(self, version, changed):
        """Like --loaded, given only when it is true."""
        seen = not changed and not self.unseen
        return seen and all(version in server.available for server in self.servers)

    def _command(self, call):
        before = self.config.read_text()
        try:
            call()
        except DataError:
            assert _same(self.config.read_text(), before)
        else:
            if self.config.read_text() != before:
                self.unseen = {0, 1}

    _HOW = st.sampled_from(["_wait", "_loaded"])
    _LABEL = st.sampled_from(["stable", "canary"])

    @rule(data=st.data(), label=_LABEL, how=_HOW)
    def promote(self, data, label, how):
        version = data.draw(st.sampled_from(self.complete))
        wait = getattr(self, how)
        self._command(lambda: promote(self.base, self.config, "m", version, label, wait))

    @rule(label=_LABEL, how=_HOW)
    def rollback(self, label, how):
        wait = getattr(self, how)
        self._command(lambda: rollback(self.base, self.config, "m", label, wait))

    @precondition(lambda self: not self.broken)
    @rule()
    def latest(self):
        self._command(lambda: serve_latest(self.config, "m"))

    @invariant()
    def some_version_is_always_served(self):
        for server in self.servers:
            assert server.available

    @invariant()
    def any_poll_now_would_be_accepted(self):
        for server in self.servers:
            labels = dict(server.labels), server._policy
            server.poll_config(self.config)
            server.labels, server._policy = labels


def _same(text: str, other: str) -> bool:
    return text.split() == other.split()


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(max_examples=80, stateful_step_count=25)
TestRollouts = pytest.mark.slow(TestRollouts)


@pytest.fixture
def config(tmp_path):
    for version in (2, 7, 10):
        (tmp_path / "m" / str(version)).mkdir(parents=True)
        (tmp_path / "m" / str(version) / "saved_model.pb").touch()
    path = tmp_path / "models.config"
    path.write_text(f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path / "m"}" }} }}')
    return path


def test_a_version_is_loaded_before_its_label_moves(config):
    base, states = config.parent / "m", []
    before = config.with_name("before")
    before.hardlink_to(config)

    def in_service(version, changed):
        states.append((labels_and_served(base, config, "m"), version, changed))
        return True

    promote(base, config, "m", 2, "stable", in_service)
    promote(base, config, "m", 7, "stable", in_service)
    promote(base, config, "m", 2, "stable", in_service)
    assert states == [
        (({}, [2, 10]), 2, True),
        (({"stable": 2}, [2, 7]), 7, True),
        (({"stable": 7}, [2, 7]), 2, False),
    ]
    assert labels_and_served(base, config, "m") == ({"stable": 2}, [2])
    assert not before.samefile(config), "servers may read it at any moment"


def test_the_model_refuses_to_move_a_label_at_once(config):
    """Shows that the model can fail: rolling back twice used to do this."""
    base = config.parent / "m"
    server = TensorFlowServing(set())
    server.poll_config(config)
    server.poll_folders([2, 7, 10], 9)
    promote(base, config, "m", 10, "stable", lambda *_: True)
    server.poll_config(config)
    server.poll_folders([2, 7, 10], 9)
    promote(base, config, "m", 2, "stable", lambda *_: True)
    for _ in range(3):
        with pytest.raises(Refused):
            server.poll_config(config)
        server.poll_folders([2, 7, 10], 9)
    assert server.available == {10}


@pytest.mark.parametrize("error", [DataError("does not load"), KeyboardInterrupt()])
def test_a_failed_promotion_leaves_the_file_unchanged(config, error):
    base = config.parent / "m"
    promote(base, config, "m", 2, "stable", lambda *_: True)
    config.write_text("# mine\n" + config.read_text())
    before = config.read_text()

    def in_service(version, changed):
        raise error

    with pytest.raises(type(error)):
        promote(base, config, "m", 10, "stable", in_service)
    assert config.read_text() == before


def test_promoting_the_same_version_again_abandons_an_unfinished_promotion(config):
    base = config.parent / "m"
    promote(base, config, "m", 2, "stable", lambda *_: True)
    promote(base, config, "m", 7, "stable", lambda *_: True)
    assert not promote(base, config, "m", 10, "stable", lambda *_: False)
    assert labels_and_served(base, config, "m") == ({"stable": 7}, [2, 7, 10])
    assert promote(base, config, "m", 7, "stable", lambda *_: False)
    assert labels_and_served(base, config, "m") == ({"stable": 7}, [2, 7])

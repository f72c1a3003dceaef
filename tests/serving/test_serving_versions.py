import contextlib
import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from data.errors import DataError
from serving import rollout, versions
from serving.client import Client
from serving.model_server.model_config import read_models
from serving.rollout import serve_latest
from serving.server import parse_flags
from serving.version_folders import newest_version, version_folders
from serving.versions import keep


@pytest.fixture
def base(tmp_path):
    """Versions 2, 7, 10 and 11 (incomplete), and entries that are not versions."""
    base = tmp_path / "ssd"
    for version in (2, 7, 10):
        (base / str(version)).mkdir(parents=True)
        (base / str(version) / "saved_model.pb").write_bytes(b"x" * 2_000_000)
    (base / "11").mkdir()
    (base / "tmp-12").mkdir()
    (base / "13").write_text("a file")
    extra = base / "10" / "assets.extra"
    extra.mkdir()
    data = {"train_records": 203, "train_fingerprint": "1a2b3c"}
    (extra / "model.json").write_text(json.dumps({"preset": "sample", "data": data}))
    score = {"value": 0.91404, "low": 0.8801, "high": 0.94, "baseline": None}
    facts = {"blessed": True, "evaluation": {"map": score}}
    (extra / "facts.json").write_text(json.dumps(facts))
    return base


@pytest.fixture
def config(tmp_path, base):
    path = tmp_path / "models.config"
    path.write_text(
        'model_config_list { config { name: "other" base_path: "/o" model_platform: "tensorflow" } '
        f'config {{ name: "ssd" base_path: "{base}" model_platform: "tensorflow" }} }}'
    )
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["versions", *map(str, arguments)])
        status = versions.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def promote(base, config, model, version, label):
    """Promotes with all versions in service."""
    assert rollout.promote(base, config, model, version, label, lambda *_: True)


def rollback(base, config, model, label):
    return rollout.rollback(base, config, model, label, lambda *_: True)


def _served(config):
    model = next(model for model in read_models(config) if model.name == "ssd")
    return model.policy(version_folders(model.base_path)), dict(model.labels)


def test_folders_by_number(base):
    assert list(version_folders(base)) == [2, 7, 10, 11]
    assert newest_version(base) == base / "10"


def test_comments_at_the_top_of_the_configuration_are_kept(base, config):
    comments = "# Edited by a program.\n\n# Twice.\n"
    config.write_text(comments + config.read_text() + "# At the end.\n")
    promote(base, config, "ssd", 2, "stable")
    promote(base, config, "ssd", 7, "stable")
    assert config.read_text().startswith(comments + "model_config_list")
    assert _served(config) == ([2, 7], {"stable": 7})


def test_moving_up_keeps_the_previous_version(base, config):
    promote(base, config, "ssd", 2, "stable")
    assert _served(config) == ([2], {"stable": 2})
    promote(base, config, "ssd", 7, "stable")
    assert _served(config) == ([2, 7], {"stable": 7})
    promote(base, config, "ssd", 10, "canary")
    assert _served(config) == ([7, 10], {"stable": 7, "canary": 10})
    promote(base, config, "ssd", 10, "stable")
    assert _served(config) == ([7, 10], {"stable": 10, "canary": 10})
    assert [model.name for model in read_models(config)] == ["other", "ssd"]
    assert list(config.parent.glob(".*")) == []


def test_moving_down_drops_the_higher_version_so_that_clients_without_a_label_follow(base, config):
    promote(base, config, "ssd", 10, "stable")
    promote(base, config, "ssd", 7, "stable")
    assert _served(config) == ([7], {"stable": 7})
    promote(base, config, "ssd", 10, "canary")
    assert rollback(base, config, "ssd", "canary") == 7, "the stable one, not 2"
    assert _served(config) == ([7], {"stable": 7, "canary": 7})


def test_rolling_back_goes_to_the_version_served_before(base, config):
    promote(base, config, "ssd", 2, "stable")
    promote(base, config, "ssd", 10, "stable")
    assert rollback(base, config, "ssd", "stable") == 2, "not 7, which was never served"
    assert _served(config) == ([2], {"stable": 2})


def test_a_version_that_another_label_names_stays(base, config):
    promote(base, config, "ssd", 7, "stable")
    promote(base, config, "ssd", 10, "canary")
    promote(base, config, "ssd", 10, "stable")
    assert rollback(base, config, "ssd", "stable") == 7
    assert _served(config) == ([7, 10], {"stable": 7, "canary": 10})


@pytest.mark.parametrize("policy, expected", [("", 7), ("specific { versions: 7 }", 2)])
def test_the_first_rollback_starts_from_the_version_served(base, config, policy, expected):
    entry = f'base_path: "{base}" model_version_policy {{ {policy} }}'
    config.write_text(config.read_text().replace(f'base_path: "{base}"', entry))
    assert rollback(base, config, "ssd", "stable") == expected
    assert _served(config) == ([expected], {"stable": expected})


def test_a_canary_without_a_stable_version_is_refused(base, config):
    before = config.read_text()
    with pytest.raises(DataError, match="no label stable, so only canary would be served"):
        promote(base, config, "ssd", 7, "canary")
    assert config.read_text() == before


def test_latest_serves_new_pushes_again(base, config):
    promote(base, config, "ssd", 2, "stable")
    serve_latest(config, "ssd")
    assert _served(config) == ([11], {})


def test_rolling_back_without_a_previous_version_goes_one_down(base, config):
    promote(base, config, "ssd", 10, "stable")
    assert rollback(base, config, "ssd", "stable") == 7
    assert rollback(base, config, "ssd", "stable") == 2
    before = config.read_text()
    with pytest.raises(DataError, match="no version below 2"):
        rollback(base, config, "ssd", "stable")
    with pytest.raises(DataError, match="has no label canary"):
        rollback(base, config, "ssd", "canary")
    assert config.read_text() == before


@pytest.mark.parametrize("version", [11, 12])
def test_incomplete_and_missing_versions_are_not_promoted(base, config, version):
    before = config.read_text()
    with pytest.raises(DataError, match=rf"version {version} is missing or has no saved_model"):
        promote(base, config, "ssd", version, "stable")
    assert config.read_text() == before


def test_keep_spares_the_versions_served(base):
    shutil.rmtree(base / "11")
    assert keep(base, 1, {2}) == [7]
    assert list(version_folders(base)) == [2, 10]
    assert keep(base, 5, ()) == []
    assert (base / "tmp-12").is_dir()


def test_the_list(run, base, config):
    promote(base, config, "ssd", 7, "stable")
    promote(base, config, "ssd", 10, "canary")
    day = time.strftime("%Y-%m-%d", time.localtime((base / "10").stat().st_mtime))
    status, out, _ = run(base, "--config", config)
    assert status == 0
    assert out.splitlines() == [
        "   version  pushed      mAP (95 % interval)  blessed  data",
        f"        11  {day}                                            incomplete",
        f"        10  {day}  0.914 (0.880-0.940)  yes      203 1a2b    canary, served",
        f"         7  {day}                                            stable, served",
        f"         2  {day}",
    ]
    assert all(len(line) <= 80 for line in out.splitlines())


def test_the_command_line(run, base, config):
    loaded = ("--config", config, "--loaded")
    status, out, _ = run(base, "promote", 7, "--config", config)
    assert status == 1
    assert out.startswith(
        f"ssd: servers that read {config} now load version 7;\nstable is not set yet."
    )
    # The command it prints works.
    (command,) = re.findall(r"^  (ssd .*)$", re.sub(r"\\\n\s*", "", out), re.M)
    words = command.split()
    assert words[:2] == ["ssd", "versions"]
    status, out, _ = run(*words[2:])
    assert (status, out) == (0, "ssd: stable is version 7\n")
    status, out, _ = run(base, "rollback", *loaded)
    assert status == 1, "version 2 was not served, so it cannot be loaded yet"
    assert "stable is still version 7" in out
    assert run(base, "rollback", *loaded)[:2] == (0, "ssd: stable is version 2\n")
    assert run(base, "keep", 1, "--config", config)[1] == "deleted: 7, 10\n"
    status, _, err = run(base, "promote", 2, *loaded, "--model", "nope")
    assert (status, err) == (
        2,
        f"error: {config}: no model nope (found: other, ssd). Name one with --model.\n",
    )
    assert run(base, "latest", "--config", config)[1] == (
        "ssd: labels dropped, the newest version is served\n"
    )
    status, _, err = run(base / "nowhere")
    assert status == 2 and "no such folder" in err


def test_the_command_line_says_what_clients_without_a_label_get(run, base, config):
    promote(base, config, "ssd", 7, "stable")
    run(base, "promote", 10, "--label", "canary", "--config", config)
    _, out, _ = run(base, "promote", 10, "--label", "canary", "--config", config, "--loaded")
    assert out == ("ssd: canary is version 10\nrequests without a label get version 10 (canary)\n")
    _, out, _ = run(base, "rollback", "--label", "canary", "--config", config, "--loaded")
    assert out == "ssd: canary is version 7\n"


@pytest.mark.parametrize("action", [("rollback",), ("promote", "7"), ("latest",)])
def test_without_a_configuration_it_says_how_to_get_one(run, base, tmp_path, action):
    """A server with --model_base_path has no labels; the printed commands work verbatim."""
    status, _, err = run(base, *action)
    assert status == 2
    # 80 columns, except for the path of the versions.
    assert max(len(line.replace(str(base), "BASE")) for line in err.splitlines()) <= 80
    path = tmp_path / "models.config"
    path.write_text(err[err.index("  model_config_list {") : err.index("start the server")])
    (model,) = read_models(path)
    assert (model.name, model.base_path) == ("ssd", base)
    commands = re.sub(r"\\\n\s*", "", err).splitlines()
    (start,) = (line.split()[2:] for line in commands if "ssd serve" in line)
    assert parse_flags(start).model_config_file_poll_wait_seconds == 10
    (again,) = (line.split()[2:] for line in commands if "ssd versions" in line)
    assert again[: 1 + len(action)] == [str(base), *action]
    assert versions._parser().parse_args(again).url == ["http://localhost:8501"]


def test_the_shipped_configuration_can_be_rolled_back(run, base, tmp_path):
    shipped = Path(versions.__file__).parent / "tensorflow_serving" / "models.config"
    config = tmp_path / "models.config"
    shutil.copy(shipped, config)
    run(base, "rollback", "--config", config)
    rolled = run(base, "rollback", "--config", config, "--loaded")
    assert rolled[:2] == (0, "ssd: stable is version 7\n")
    (model,) = read_models(config)
    assert model.policy([2, 7, 10]) == [7]


def _save_labeller(folder, name: str) -> None:
    """Saves a detector that finds one object of class `name` in any picture."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(image_bytes):
        count = tf.shape(image_bytes)[0]
        return {
            "detection_boxes": tf.zeros([count, 1, 4]),
            "detection_scores": tf.ones([count, 1]),
            "detection_classes": tf.ones([count, 1], tf.int64),
            "detection_class_names": tf.fill([count, 1], name),
            "num_detections": tf.ones([count], tf.int64),
        }

    module = tf.Module()
    module.function = serving_default
    tf.saved_model.save(module, str(folder), signatures=serving_default)


@pytest.fixture
def fleet(tmp_path, start_server, monkeypatch):
    """A server that polls its configuration, with versions 1 to 3, and ways to ask it."""
    base, config = tmp_path / "ssd", tmp_path / "models.config"
    for number in (1, 2, 3):
        _save_labeller(base / str(number), f"v{number}")
    config.write_text(f'model_config_list {{ config {{ name: "ssd" base_path: "{base}" }} }}')
    # Poll faster than the default of once a second.
    monkeypatch.setattr("serving.server_status._ASK_EVERY_S", 0.3)
    server = start_server(
        *("--model_config_file", config, "--model_config_file_poll_wait_seconds=0.2"),
        *("--file_system_poll_wait_seconds=0.2", "--max_num_load_retries=0"),
    )

    def ask(label=None):
        """The version that answers, over REST and over gRPC."""
        found = set()
        for url in (server.url, f"grpc://127.0.0.1:{server.grpc_port}"):
            (answer,) = Client(url, "ssd", label=label, retries=0).predict([b"picture"])
            name = answer["detection_class_names"][0]
            found.add(name.decode() if isinstance(name, bytes) else name)
        return found

    def becomes(expected, label=None):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(DataError):
                if ask(label) == {expected}:
                    return True
            time.sleep(0.1)
        return False

    return SimpleNamespace(base=base, config=config, server=server, ask=ask, becomes=becomes)


@pytest.mark.slow
def test_a_running_server_follows_every_command(fleet, run, capsys):
    """Two rollbacks, a promotion after them, a second canary: with --url, in one call each."""
    served = ("--config", fleet.config, "--url", fleet.server.url)

    def does(*words):
        status, out, err = run(fleet.base, *words, *served)
        assert status == 0, out + err
        return out

    assert fleet.ask() == {"v3"}
    does("rollback")
    assert fleet.becomes("v2")
    does("rollback")
    assert fleet.becomes("v1")
    assert fleet.becomes("v1", label="stable")
    does("promote", 2, "--label", "canary")
    assert fleet.becomes("v2", label="canary")
    assert fleet.ask("stable") == {"v1"}
    # As in TensorFlow Serving, requests without a label get the canary.
    assert fleet.ask() == {"v2"}
    does("promote", 3, "--label", "canary")
    assert fleet.becomes("v3", label="canary")
    does("promote", 3)
    assert fleet.becomes("v3", label="stable")
    listed = does("list").splitlines()
    assert [line.split()[0] for line in listed if line.endswith("served")] == ["3", "1"]
    does("rollback")
    does("rollback", "--label", "canary")
    assert fleet.becomes("v1")
    serve_latest(fleet.config, "ssd")
    assert fleet.becomes("v3")
    assert "configuration not applied" not in fleet.server.log.read_text()


@pytest.mark.slow
def test_a_failed_promotion_leaves_the_file_unchanged(fleet, run, tmp_path):
    broken = fleet.base / "4"
    broken.mkdir()
    (broken / "saved_model.pb").write_text("no model")
    before = fleet.config.read_text()
    words = ("promote", 4, "--config", fleet.config, "--url", fleet.server.url)
    status, _, err = run(fleet.base, *words)
    assert status == 2
    assert "version 4 of ssd does not load" in err and "damaged" in err
    assert fleet.config.read_text().split() == before.split()
    assert fleet.ask() == {"v3"}

    before = fleet.config.read_text()
    words = ("rollback", "--config", fleet.config, "--url", fleet.server.url)
    status, _, err = run(fleet.base, *words, "--url", "http://127.0.0.1:1")
    assert status == 2
    assert err.startswith("error: http://127.0.0.1:1: no connection (Connection refused).")
    assert fleet.config.read_text() == before
    other = tmp_path / "other.config"
    other.write_text(before)
    words = ("rollback", "--config", other, "--url", fleet.server.url, "--timeout", "0")
    status, _, err = run(fleet.base, *words)
    assert status == 2 and "Does the server read this models.config" in err
    assert other.read_text().split() == before.split()

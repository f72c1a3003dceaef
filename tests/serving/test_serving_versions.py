import json
import shutil

import pytest

from data.errors import DataError
from serving import versions
from serving.model_config import read_models
from serving.versions import keep, newest_version, promote, rollback, version_folders


@pytest.fixture
def base(tmp_path):
    """Versions 2, 7, 10 and 11 (incomplete), and what is no version."""
    base = tmp_path / "ssd"
    for version in (2, 7, 10):
        (base / str(version)).mkdir(parents=True)
        (base / str(version) / "saved_model.pb").write_bytes(b"x" * 2_000_000)
    (base / "11").mkdir()
    (base / "tmp-12").mkdir()
    (base / "13").write_text("a file")
    extra = base / "10" / "assets.extra"
    extra.mkdir()
    (extra / "model.json").write_text(json.dumps({"preset": "sample"}))
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


def _served(config):
    model = next(model for model in read_models(config) if model.name == "ssd")
    return model.policy(version_folders(model.base_path)), dict(model.labels)


def test_folders_by_number(base):
    assert list(version_folders(base)) == [2, 7, 10, 11]
    assert newest_version(base) == base / "10"


def test_promotion_and_canary_serve_the_labelled_versions_and_the_one_left(base, config):
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


def test_rolling_back_goes_to_the_version_served_before(base, config):
    promote(base, config, "ssd", 2, "stable")
    promote(base, config, "ssd", 10, "stable")
    assert rollback(base, config, "ssd", "stable") == 2, "not 7, which was never served"
    assert _served(config) == ([2, 10], {"stable": 2})


def test_rolling_back_without_a_version_before_goes_one_down(base, config):
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
    with pytest.raises(DataError, match=rf"version {version} is not there, or has no saved_model"):
        promote(base, config, "ssd", version, "stable")
    assert config.read_text() == before


def test_keeping_the_last_versions_spares_those_served(base):
    shutil.rmtree(base / "11")
    assert keep(base, 1, {2}) == [7]
    assert list(version_folders(base)) == [2, 10]
    assert keep(base, 5, ()) == []
    assert (base / "tmp-12").is_dir()


def test_the_command_line(run, base, config):
    status, out, _ = run(base, "promote", 7, "--config", config)
    assert (status, out) == (0, "ssd: stable is version 7\n")
    status, out, _ = run(base, "--config", config)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["11", "10", "7", "2"]
    assert lines[0].endswith("no saved_model.pb")
    assert lines[1].endswith("2.0 MB  sample")
    assert lines[2].endswith("stable")
    assert run(base, "rollback", "--config", config)[1] == "ssd: stable is version 2\n"
    assert run(base, "keep", 1, "--config", config)[1] == "deleted: 10\n"
    status, _, err = run(base, "promote", 2, "--config", config, "--model", "nope")
    assert (status, err) == (
        2,
        f"error: {config}: no model nope (found: other, ssd). Name one with --model.\n",
    )
    status, _, err = run(base / "nowhere")
    assert status == 2 and "no such folder" in err

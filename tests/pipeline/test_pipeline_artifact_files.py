"""Artifacts whose files were deleted or moved."""

import pytest
from tfx.types import artifact_utils, standard_artifacts

from pipeline import artifact_files


@pytest.fixture
def made(tmp_path):
    """Returns an artifact in a folder with these files."""

    def made(kind, *files, splits=()):
        artifact = kind()
        artifact.uri = str(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        if splits:
            artifact.split_names = artifact_utils.encode_split_names(list(splits))
        for file in files:
            path = tmp_path / artifact.uri / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return artifact

    return made


@pytest.mark.parametrize(
    ("kind", "files", "expected"),
    [
        (standard_artifacts.Model, ["Format-Serving/saved_model.pb"], True),
        # Imported from a pushed version.
        (standard_artifacts.Model, ["saved_model.pb"], True),
        (standard_artifacts.Model, ["Format-Serving/variables/index"], False),
        (standard_artifacts.ModelRun, ["log"], True),
        (standard_artifacts.ModelRun, [], False),
    ],
)
def test_an_artifact_exists_if_its_essential_files_do(made, kind, files, expected):
    assert artifact_files.is_there(made(kind, *files)) == expected


@pytest.mark.parametrize(
    "kind", [standard_artifacts.Examples, standard_artifacts.ExampleStatistics]
)
def test_every_split_must_exist(made, tmp_path, kind):
    files = ("Split-train/a", "Split-test/a")
    assert artifact_files.is_there(made(kind, *files, splits=("train", "test")))
    assert not artifact_files.is_there(made(kind, *files[:1], splits=("train", "test")))
    artifact = made(kind, *files, splits=("train", "test"))
    (tmp_path / artifact.uri / "Split-test" / "a").unlink()
    assert not artifact_files.is_there(artifact)


def test_missing_artifacts_are_ignored_and_logged(made, caplog):
    caplog.set_level("INFO", "ssd")
    here, gone = made(standard_artifacts.ModelRun, "log"), made(standard_artifacts.ModelRun)
    found = artifact_files.only_there({"run": [gone, here, gone], "other": [here]})
    assert found == {"run": [here], "other": [here]}
    (line,) = (record.message for record in caplog.records)
    assert line.endswith("gone: run 2")


def test_cache_keys_do_not_contain_the_output_folder():
    artifact = standard_artifacts.PushedModel()
    artifact.uri = "/out/pipeline/Pusher/7"
    artifact.set_string_custom_property("pushed_destination", "/out/serving/ssd/1")
    artifact.set_string_custom_property("beside", "/outside/1")
    found = artifact_files._portable(artifact, "/out")
    assert found.uri == "pipeline/Pusher/7"
    assert found.get_string_custom_property("pushed_destination") == "serving/ssd/1"
    assert found.get_string_custom_property("beside") == "/outside/1"
    assert artifact.uri == "/out/pipeline/Pusher/7"

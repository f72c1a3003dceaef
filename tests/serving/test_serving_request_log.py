"""The request log: what goes into it, and what its statistics show."""

import base64
import concurrent.futures
import resource
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from data.errors import DataError
from data.fields import COMMON
from serving import request_examples
from serving.model_server import request_log
from serving.model_server.model_config import LogConfig, ModelConfig, latest, read_models
from serving.model_server.request_log import RequestLogs


def _models(prefix, rate=1.0):
    return [ModelConfig("m", Path("/m"), latest(), {}, LogConfig(Path(prefix), rate))]


def _read(folder) -> list:
    return [
        prediction_log_pb2.PredictionLog.FromString(record)
        for file in sorted(folder.glob("*.tfrecord"))
        for record in tf.compat.v1.io.tf_record_iterator(str(file))
    ]


def _config(folder, base, rate, more="") -> Path:
    path = folder / "models.config"
    path.write_text(
        f"""model_config_list {{ config {{
          name: "blobs" base_path: "{base}" model_platform: "tensorflow"
          logging_config {{
            log_collector_config {{ type: "tfrecord" filename_prefix: "{folder}/log/blobs" }}
            sampling_config {{ sampling_rate: {rate} }}
            {more}
          }}
        }} }}"""
    )
    return path


@pytest.mark.slow
def test_all_requests_under_load_are_logged_after_sigterm(
    start_server, blob_model, picture, tmp_path
):
    server = start_server(f"--model_config_file={_config(tmp_path, blob_model, 1)}")
    content = picture.read_bytes()
    instance = {"b64": base64.b64encode(content).decode()}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.predict("blobs", instances=[instance]), range(60)))
    assert server.predict("blobs", instances=[{"b64": "AAAA"}])["error"]
    assert list((tmp_path / "log").glob("*.partial"))
    assert server.stop() == 0
    assert not list((tmp_path / "log").glob("*.partial"))
    logged = _read(tmp_path / "log")
    assert len(logged) == len(answers), "without the one that failed"
    for record in logged:
        predict = record.predict_log
        assert record.log_metadata.model_spec.version.value == 20
        assert predict.request.model_spec.name == "blobs"
        assert tf.make_ndarray(predict.request.inputs["image_bytes"]).tolist() == [content]
        scores = tf.make_ndarray(predict.response.outputs["detection_scores"])[0]
        np.testing.assert_array_equal(
            scores, np.float32(answers[0]["predictions"][0]["detection_scores"])
        )


def test_the_sampling_rate(tmp_path):
    logs = RequestLogs(_models(tmp_path / "m", 0.25))
    values = {"x": np.zeros(1)}
    for number in range(2000):
        logs.add("m", number, "", values, values)
        logs.add("other", number, "", values, values)
    logs.close()
    logs.add("m", 0, "", values, values)
    logged = _read(tmp_path)
    # Four standard deviations about the mean.
    assert abs(len(logged) - 500) < 4 * np.sqrt(2000 * 0.25 * 0.75)
    numbers = [record.log_metadata.model_spec.version.value for record in logged]
    assert numbers == sorted(set(numbers))


def test_full_files_end_and_the_oldest_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(request_log, "_FILE_BYTES", 3000)
    monkeypatch.setattr(request_log, "_FILES", 4)
    logs = RequestLogs(_models(tmp_path / "m"))
    for number in range(40):
        logs.add("m", number, "", {"x": np.array([b"x" * 1000], object)}, {})
    logs.close()
    numbers = [record.log_metadata.model_spec.version.value for record in _read(tmp_path)]
    assert len(list(tmp_path.iterdir())) == 4
    assert numbers == list(range(40))[-len(numbers) :] and 8 <= len(numbers) <= 12


def _file(prefix, start, pid, end=".tfrecord") -> Path:
    return prefix.with_name(f"{prefix.name}-{start:019}-{pid}{end}")


def test_the_files_of_other_models_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(request_log, "_FILES", 1)
    prefix = tmp_path / "ssd"
    others = [_file(tmp_path / name, 7, 1) for name in ("ssd-v2", "ssd-1", "ssdx")]
    others += [
        tmp_path / "ssd-notes.tfrecord",
        _file(tmp_path / "ssd-v2", 7, 1, ".tfrecord.partial"),
    ]
    own = [_file(prefix, 1, 1), _file(prefix, 2, 99)]
    for file in [*others, *own]:
        file.write_text("")
    logs = RequestLogs(_models(prefix))
    logs.add("m", 1, "", {}, {})
    logs.close()
    assert all(file.exists() for file in others)
    assert not any(file.exists() for file in own)
    assert len(list(tmp_path.iterdir())) == len(others) + 1


def test_files_of_killed_processes_are_finished_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(request_log, "_FILES", 4)
    prefix = tmp_path / "m"
    alive = RequestLogs(_models(prefix))
    alive.add("m", 1, "", {}, {})
    (live,) = tmp_path.iterdir()
    for start in range(20):
        _file(prefix, start, 1, ".tfrecord.partial").write_bytes(b"x" * (start % 2))
    logs = RequestLogs(_models(prefix))
    logs.add("m", 2, "", {}, {})
    assert live.exists(), "another server is writing it"
    assert len(list(tmp_path.glob("*.partial"))) == 2
    logs.close()
    assert len(list(tmp_path.glob("*.tfrecord"))) == 4
    assert not _file(prefix, 18, 1).exists(), "an empty one is removed"
    alive.close()
    assert not list(tmp_path.glob("*.partial"))


def test_an_old_file_ends_without_another_request(tmp_path, monkeypatch):
    logs = RequestLogs(_models(tmp_path / "m"))
    logs.add("m", 1, "", {}, {})
    logs.finish_due()
    assert list(tmp_path.glob("*.partial"))
    monkeypatch.setattr(request_log, "_FILE_SECONDS", 0.0)
    logs.close()
    logs.configure(_models(tmp_path / "m"))
    logs.add("m", 2, "", {}, {})
    logs.finish_due()
    assert not list(tmp_path.glob("*.partial"))
    assert len(_read(tmp_path)) == 2


def test_a_full_disk_leaves_nothing_behind_and_fails_no_request(tmp_path, caplog):
    logs = RequestLogs(_models(tmp_path / "m"))
    values = {"x": np.array([b"x" * 50_000], object)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, limits[1]))
    try:
        for number in range(3):
            logs.add("m", number, "", values, {})
        assert list(tmp_path.iterdir()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    logs.add("m", 3, "", values, {})
    logs.close()
    assert [r.log_metadata.model_spec.version.value for r in _read(tmp_path)] == [3]
    assert len([line for line in caplog.messages if "not logged" in line]) == 1


def test_a_log_moves_with_the_configuration(tmp_path):
    logs = RequestLogs(_models(tmp_path / "old" / "m"))
    logs.add("m", 1, "", {}, {})
    logs.configure(_models(tmp_path / "new" / "m"))
    logs.add("m", 2, "", {}, {})
    logs.close()
    assert [len(_read(tmp_path / name)) for name in ("old", "new")] == [1, 1]


def test_a_log_that_cannot_be_written_fails_no_request(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    logs = RequestLogs(_models(tmp_path / "file" / "m"))
    for number in range(3):
        logs.add("m", number, "", {}, {})
    logs.close()
    assert len([line for line in caplog.messages if "not logged" in line]) == 1


@pytest.mark.parametrize("change", [('"tfrecord"', '"kafka"'), ("rate: 1", "rate: 2")])
def test_invalid_logging_configurations(tmp_path, change):
    path = _config(tmp_path, tmp_path, 1)
    assert read_models(path)[0].log == LogConfig(tmp_path / "log" / "blobs", 1.0)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(DataError, match="needs type 'tfrecord', a prefix, and a rate"):
        read_models(path)


def _log_of(folder, pictures, names, score=0.9):
    """A log with a detection of each name on its picture; returns its file."""
    logs = RequestLogs(_models(folder / "m"))
    for picture, name in zip(pictures, names, strict=True):
        answer = {
            "detection_boxes": np.float32([[[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]]]),
            "detection_scores": np.float32([[score, 0.1]]),
            "detection_classes": np.array([[1, 2]]),
            "detection_class_names": np.array([[name.encode(), b"faint"]], object),
        }
        logs.add("m", 1, "", {"image_bytes": np.array([picture], object)}, answer)
    logs.close()
    return next(folder.glob("*.tfrecord"))


@pytest.mark.slow
def test_statistics_tell_a_skewed_log_from_a_similar_one(tmp_path, picture, monkeypatch, capsys):
    import tensorflow_data_validation as tfdv

    from components.data_gate.shift import measure_shifts

    content = picture.read_bytes()
    statistics = {}
    for split, names in (
        ("train", ["dog", "cat"] * 20),
        ("like", ["cat", "dog", "dog", "cat"] * 5),
        ("skewed", ["dog"] * 18 + ["cat"] * 2),
    ):
        log = _log_of(tmp_path / split, [content] * len(names), names)
        output = tmp_path / split / "records"
        command = ["request_examples", str(log), "--output", str(output)]
        monkeypatch.setattr("sys.argv", command)
        assert request_examples.main() == 0
        assert f"{len(names)} pictures" in capsys.readouterr().out
        statistics[split] = tfdv.generate_statistics_from_tfrecord(f"{output}/*.tfrecord")
    record = next(iter(tf.compat.v1.io.tf_record_iterator(str(next(output.iterdir())))))
    feature = tf.train.Example.FromString(record).features.feature
    assert feature[COMMON.encoded].bytes_list.value == [content]
    assert feature[COMMON.width].int64_list.value == [200]
    assert feature[COMMON.text].bytes_list.value == [b"dog"], "faint detections are not objects"
    np.testing.assert_allclose(feature[COMMON.xmin].float_list.value, [0.2])

    shifts = {
        (shift.other, shift.feature): shift.value
        for shift in measure_shifts(statistics, None, COMMON, 0.1, 0.1)
    }
    assert shifts["like", COMMON.text] == pytest.approx(0)
    assert shifts["skewed", COMMON.text] == pytest.approx(0.4)
    assert shifts["skewed", COMMON.width] == pytest.approx(0)


def test_logs_without_pictures_and_files_that_are_not_logs(tmp_path, monkeypatch, capsys):
    logs = RequestLogs(_models(tmp_path / "m"))
    logs.add("m", 1, "", {"images": np.zeros((1, 2, 2, 3), np.uint8)}, {})
    logs.close()
    (log,) = tmp_path.glob("*.tfrecord")
    (tmp_path / "text").write_text("no log at all")
    for path, message in ((log, "no picture"), (tmp_path / "text", "not a log of requests")):
        command = ["request_examples", str(path), "--output", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", command)
        assert request_examples.main() == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.glob("**/*out*"))


def test_damaged_logs_and_pictures_are_skipped_and_reported(tmp_path, picture, monkeypatch, capsys):
    pictures = [picture.read_bytes(), b"no picture", picture.read_bytes()]
    log = _log_of(tmp_path / "log", pictures, ["dog", "bird", "cat"])
    broken = tmp_path / "broken.tfrecord"
    broken.write_bytes(log.read_bytes()[:-5])
    (tmp_path / "text").write_text("no log at all")
    logs = [str(path) for path in (tmp_path / "text", broken, log)]
    command = ["request_examples", *logs, "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", command)
    assert request_examples.main() == 0
    out, err = capsys.readouterr()
    assert out == f"3 pictures in {tmp_path / 'out'}\n"
    text, first, cut, second = err.splitlines()
    assert text.startswith(f"skipped: {tmp_path / 'text'}: not a log of requests")
    assert first == f"skipped: {broken}: record 1, picture 0: cannot identify image file"
    assert cut.startswith(f"skipped: {broken}: damaged after 2 records")
    assert second.startswith(f"skipped: {log}: record 1, picture 0")

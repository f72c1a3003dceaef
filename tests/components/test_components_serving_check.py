import contextlib
import dataclasses
import io
import json
import logging
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2
from tfx.types import standard_artifacts

from components.artifacts import SERVING_CHECK_FILE
from components.serving_check import check as check_module
from components.serving_check.check import (
    Kept,
    Limits,
    broken_limits,
    check,
    find_difference,
    percentiles,
)
from components.serving_check.component import ServingCheck
from data.errors import DataError
from data.fields import COMMON
from pipeline.config import DEFAULT_PRESET, load_config
from serving.detections import Detection
from trainer.export import IDENTITY

WARM_UP = "assets.extra/tf_serving_warmup_requests"
SCORE_THRESHOLD, MAX_DETECTIONS = 0.02, 30
KEPT = Kept(MAX_DETECTIONS, SCORE_THRESHOLD)
GENEROUS = Limits(max_latency_ms=20_000, max_memory_mb=20_000, score_tolerance=1e-3)


def save_model(folder: Path, served_shift: float = 0.0, breaks_on_white: bool = False) -> Path:
    """Saves a model that finds two objects in any picture, with higher scores in brighter ones.

    `served_shift` is added only to the scores of `serving_default`.
    """

    scale = tf.Variable(1 / 300)

    def detect(encoded, shift):
        picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        brightness = tf.reduce_mean(tf.cast(picture, tf.float32)) * scale
        if breaks_on_white and shift is not None:
            with tf.control_dependencies([tf.debugging.Assert(brightness < 0.8, ["too bright"])]):
                brightness = tf.identity(brightness)
        scores = tf.stack([brightness, brightness / 3]) + (shift or 0.0)
        return {
            "detection_boxes": tf.stack([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]) * brightness,
            "detection_scores": scores,
            "detection_classes": tf.constant([2, 1], tf.int64),
            "detection_class_names": tf.constant(["ring", "star"]),
            "num_detections": tf.constant(2, tf.int64),
        }

    specs = {
        "detection_boxes": tf.TensorSpec([2, 4], tf.float32),
        "detection_scores": tf.TensorSpec([2], tf.float32),
        "detection_classes": tf.TensorSpec([2], tf.int64),
        "detection_class_names": tf.TensorSpec([2], tf.string),
        "num_detections": tf.TensorSpec([], tf.int64),
    }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(image_bytes):
        return tf.map_fn(lambda e: detect(e, served_shift), image_bytes, fn_output_signature=specs)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def serving_examples(examples):
        feature = {COMMON.encoded: tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_example(examples, feature)[COMMON.encoded]
        return tf.map_fn(lambda e: detect(e, None), encoded, fn_output_signature=specs)

    module = tf.Module()
    module.scale = scale
    signatures = {"serving_default": serving_default, "serving_examples": serving_examples}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    (folder / "assets.extra").mkdir()
    config = {"max_detections": 2, "score_threshold": 0.0}
    (folder / IDENTITY).write_text(json.dumps({"trainer": config}))
    with tf.io.TFRecordWriter(str(folder / WARM_UP)) as writer:
        log = prediction_log_pb2.PredictionLog()
        tensor = tf.make_tensor_proto([picture(90)])
        log.predict_log.request.inputs["image_bytes"].CopyFrom(tensor)
        writer.write(log.SerializeToString())
    return folder


def picture(grey: int) -> bytes:
    """A plain grey PNG."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def record(grey: int) -> bytes:
    """A record with a plain grey picture."""
    example = tf.train.Example()
    example.features.feature[COMMON.encoded].bytes_list.value.append(picture(grey))
    example.features.feature[COMMON.filename].bytes_list.value.append(b"grey%d.png" % grey)
    return example.SerializeToString()


def run_component(
    tmp_path, model: Path, **changes
) -> tuple[standard_artifacts.InfraBlessing, dict]:
    """Runs the component on six grey pictures; returns its blessing and report."""
    shards = tmp_path / "examples" / "Split-test"
    shards.mkdir(parents=True)
    for shard in range(2):
        with tf.io.TFRecordWriter(str(shards / f"data-{shard:05d}.gz"), "GZIP") as writer:
            for grey in (60, 120, 180):
                writer.write(record(grey + shard))
    inputs = standard_artifacts.Model(), standard_artifacts.Examples()
    inputs[0].uri, inputs[1].uri = str(model.parent), str(tmp_path / "examples")
    inputs[1].split_names = '["train", "test"]'
    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(tmp_path / "blessing")
    parameters = {"check_pictures": 5, **dataclasses.asdict(GENEROUS), **changes}
    ServingCheck.test_call(
        model=inputs[0],
        examples=inputs[1],
        blessing=blessing,
        split="test",
        **parameters,
    )
    return blessing, json.loads((tmp_path / "blessing" / SERVING_CHECK_FILE).read_text())


@pytest.fixture
def log(caplog, monkeypatch):
    """The project's log."""
    monkeypatch.setattr(logging.getLogger("ssd"), "propagate", True)
    caplog.set_level(logging.INFO, "ssd")
    return caplog


@pytest.mark.slow
def test_a_model_that_answers_correctly_on_a_server_is_blessed(tmp_path, log):
    model = save_model(tmp_path / "model" / "Format-Serving")
    blessing, report = run_component(tmp_path, model)
    assert blessing.get_int_custom_property("blessed") == 1
    assert {path.name for path in Path(blessing.uri).iterdir()} == {
        "INFRA_BLESSED",
        SERVING_CHECK_FILE,
    }
    assert report["problems"] == []
    assert report["pictures"] == report["equal"] == 5
    assert report["detections"] == 10
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    # A process that has imported TensorFlow.
    assert 150 < report["memory_mb"] < 5000
    assert log.records == []


@pytest.mark.slow
def test_a_model_that_answers_differently_than_evaluated_is_not_blessed(tmp_path, log):
    model = save_model(tmp_path / "model" / "Format-Serving", served_shift=0.004)
    blessing, report = run_component(
        tmp_path, model, check_pictures=2, max_latency_ms=1e-3, max_memory_mb=1.0
    )
    assert blessing.get_int_custom_property("blessed") == 0
    assert {p.name for p in Path(blessing.uri).iterdir()} == {
        "INFRA_NOT_BLESSED",
        SERVING_CHECK_FILE,
    }
    assert report["equal"] == 0
    skew, latency, memory = report["problems"]
    assert "2 of 2 pictures get different detections" in skew
    assert "grey60.png: ring 0.2000 at (0.0200, 0.0400, 0.0600, 0.0800) is not among" in skew
    assert "serving.max_latency_ms=0.001" in latency
    assert "serving.max_memory_mb=1" in memory
    assert all(problem in log.text for problem in report["problems"])


@pytest.mark.slow
def test_a_model_that_fails_during_requests_is_not_blessed(tmp_path):
    model = save_model(tmp_path / "model", breaks_on_white=True)
    report = check(str(model), [record(60), record(255)], GENEROUS)
    (problem,) = report["problems"]
    assert "400" in problem and "too bright" in problem
    assert "equal" not in report


@pytest.mark.slow
def test_a_model_that_no_server_loads_is_not_blessed(tmp_path):
    model = save_model(tmp_path / "model")
    # Only a server reads the warm-up requests on loading.
    with tf.io.TFRecordWriter(str(model / WARM_UP)) as writer:
        writer.write(b"\xff no request")
    (problem,) = check(str(model), [record(60)], GENEROUS)["problems"]
    assert "the server ended with status 255" in problem
    assert "does not load" in problem


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "saved_model.pb").unlink(), "does not load"),
        (lambda folder: (folder / "saved_model.pb").write_bytes(b"\xff" * 9), "does not load"),
        (lambda folder: (folder / "variables/variables.index").write_bytes(b"x"), "does not load"),
        (lambda folder: (folder / WARM_UP).unlink(), "cannot read its warm-up requests"),
        (lambda folder: (folder / IDENTITY).unlink(), "does not say what the model returns"),
    ],
)
def test_a_broken_model_is_not_blessed(tmp_path, spoil, message):
    model = save_model(tmp_path / "model")
    spoil(model)
    (problem,) = check(str(model), [record(60)], GENEROUS)["problems"]
    assert message in problem


class ServerHere:
    """In place of a server and its client: a SavedModel in this process."""

    url = "http://here"

    def __init__(self, model):
        self.asked = []
        self.ended = False
        self.signature = tf.saved_model.load(model).signatures["serving_default"]

    def wait_until_ready(self):
        self.asked.append("ready?")

    def check_alive(self):
        if self.ended:
            raise DataError("the server ended")

    def peak_memory_mb(self):
        return 611.4

    def client(self, url, name, retries):
        assert (url, retries) == (self.url, 0), "a second try would hide that the first failed"
        return self

    def predict(self, pictures):
        self.asked.append(pictures)
        if self.ended:
            raise DataError("no connection")
        found = self.signature(image_bytes=tf.constant(pictures))
        return [{name: found[name][i].numpy() for name in found} for i in range(len(pictures))]


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """A model and its server in this process."""

    def serve(**options):
        model = str(save_model(tmp_path / "model", **options))
        server = ServerHere(model)
        started = contextlib.nullcontext(server)
        monkeypatch.setattr(check_module, "started_server", lambda _: started)
        monkeypatch.setattr(check_module, "Client", server.client)
        return model, server

    return serve


def test_each_picture_is_asked_for_by_itself_after_the_warm_up(serve):
    model, server = serve()
    report = check(model, [record(60), record(200)], GENEROUS)
    assert server.asked == ["ready?", *([picture(grey)] for grey in (90, 60, 200))]
    times = report.pop("p50_ms"), report.pop("p99_ms")
    assert 0 < times[0] <= times[1] < 20_000
    expected = {"pictures": 2, "equal": 2, "detections": 4, "memory_mb": 611, "problems": []}
    assert report == expected


def test_other_answers_and_broken_limits_are_problems(serve):
    model, _ = serve(served_shift=0.004)
    report = check(model, [record(60), record(200)], Limits(1e-6, 611.0, 1e-3))
    skew, latency = report["problems"]
    assert report["equal"] == 0
    assert "2 of 2 pictures get" in skew and "the first, grey60.png: ring" in skew
    assert "serving.max_latency_ms=1e-06" in latency
    tolerant = dataclasses.replace(GENEROUS, score_tolerance=0.01)
    assert check(model, [record(60)], tolerant)["problems"] == []


def test_a_server_that_ends_is_the_problem_and_not_the_lost_connection(serve):
    model, server = serve()
    server.ended = True
    assert check(model, [record(60)], GENEROUS) == {
        "pictures": 1,
        "problems": ["the server ended"],
    }


scores = st.floats(SCORE_THRESHOLD + 0.01, 1)
sides = st.floats(0, 1)
detections = st.builds(
    Detection,
    name=st.just("dog"),
    class_id=st.integers(1, 3),
    score=scores,
    box=st.tuples(sides, sides, sides, sides),
)


@given(st.lists(detections, max_size=20), st.randoms(), st.data())
def test_the_same_detections_in_any_order_are_equal(found, random, data):
    nearly = [
        dataclasses.replace(
            d,
            score=d.score + data.draw(st.floats(-0.009, 0.009)),
            box=tuple(side + data.draw(st.floats(-0.009, 0.009)) for side in d.box),
        )
        for d in found
    ]
    shuffled = random.sample(found, len(found))
    assert find_difference(found, shuffled, 0.0, KEPT) == ""
    # Neighbours may take each other's partner, so compare one pair at a time.
    for one, other in zip(found, nearly, strict=True):
        assert find_difference([one], [other], 0.01, KEPT) == ""


@given(
    st.lists(detections, max_size=5), detections, st.sampled_from(["score", "box", "class", "none"])
)
def test_another_score_box_class_or_number_is_a_difference(common, one, what):
    other = {
        "score": lambda: [dataclasses.replace(one, score=one.score + 3)],
        "box": lambda: [dataclasses.replace(one, box=(*one.box[:3], one.box[3] + 3))],
        "class": lambda: [dataclasses.replace(one, class_id=9)],
        "none": list,
    }[what]()
    expected, answered = [*common, one], [*common, *other]
    assert "not among the server's" in find_difference(expected, answered, 1e-3, KEPT)
    assert find_difference(answered, expected, 1e-3, KEPT) != ""


def dog(score: float) -> Detection:
    return Detection("dog", 1, score, (0.0, 0.0, score, 1.0))


def test_only_the_lowest_scores_may_be_kept_or_not():
    at_threshold = [dog(SCORE_THRESHOLD + 0.0005)]
    assert find_difference(at_threshold, [], 1e-3, KEPT) == ""
    assert find_difference([], at_threshold, 1e-3, KEPT) == ""
    assert find_difference([dog(SCORE_THRESHOLD + 0.002)], [], 1e-3, KEPT)
    assert find_difference([], [dog(SCORE_THRESHOLD + 0.002)], 1e-3, KEPT)
    full = [dog(0.3 + i / 1000) for i in range(MAX_DETECTIONS)]
    assert find_difference(full, [*full[1:], dog(0.3004)], 1e-4, KEPT)
    assert find_difference([dog(0.3), *full[1:]], [dog(0.2), *full[1:]], 1e-3, KEPT)
    assert find_difference([dog(0.30005), *full[1:]], [dog(0.3), *full[1:]], 1e-4, KEPT) == ""
    lowest = [Detection("cat", 2, 0.30003, (0.0, 0.0, 1.0, 1.0)), *full[1:]]
    assert find_difference(full, lowest, 1e-4, KEPT) == ""


def test_a_models_limits_are_read_from_the_model(tmp_path):
    model = save_model(tmp_path / "model")
    assert Kept.by(str(model)) == Kept(max_detections=2, score_threshold=0.0)
    (model / IDENTITY).write_text('{"trainer": {"max_detections": 2}}')
    with pytest.raises(DataError, match=f"{IDENTITY}: does not say .*score_threshold"):
        Kept.by(str(model))


def test_nan_is_a_difference():
    assert find_difference([dog(float("nan"))], [dog(float("nan"))], 1e-3, KEPT)


def test_limits_are_broken_only_from_above():
    measured = {"p99_ms": 30.0, "memory_mb": 400}
    assert broken_limits(measured, Limits(30.0, 400.0, 0.0)) == []
    (latency,) = broken_limits(measured, Limits(29.9, 400.0, 0.0))
    assert "30 ms" in latency and "max_latency_ms=29.9" in latency
    (memory,) = broken_limits(measured, Limits(30.0, 399.0, 0.0))
    assert "400 MB" in memory and "max_memory_mb=399" in memory


def test_percentiles_of_latencies():
    latencies = [10.0] * 60 + [20.0] * 38 + [500.0] * 2
    assert percentiles(latencies) == {"p50_ms": 10.0, "p99_ms": 500.0}


@pytest.mark.parametrize(
    "override",
    [
        "check_pictures=0",
        "max_latency_ms=0",
        "max_latency_ms=nan",
        "max_latency_ms=30001",
        "max_memory_mb=-1",
        "score_tolerance=1.5",
        "infra_validator=podman",
    ],
)
def test_invalid_serving_settings_are_refused(override):
    with pytest.raises(DataError, match=f"serving.{override.partition('=')[0]}"):
        load_config(DEFAULT_PRESET, [f"serving.{override}"])

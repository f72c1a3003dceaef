"""The REST API of a running server, and its limits."""

import base64
import concurrent.futures
import gzip
import io
import json
import struct
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


def _instance(path) -> dict:
    return {"b64": base64.b64encode(path.read_bytes()).decode()}


def test_detections_of_a_picture(server, picture):
    (found,) = server.predict("blobs", instances=[_instance(picture)])["predictions"]
    assert found["num_detections"] == 2
    assert sorted(found["detection_class_names"]) == ["", "", "", "blue", "red"]
    red = found["detection_class_names"].index("red")
    np.testing.assert_allclose(found["detection_boxes"][red], (0.1, 0.05, 0.5, 0.3), atol=1e-6)


def test_versions_and_labels(server):
    for path, expected in [("", 2), ("/versions/1", 1), ("/labels/stable", 1), ("/versions/2", 2)]:
        body = json.dumps({"instances": [0.5]})
        status, _, answer = server.request("POST", f"/v1/models/adder{path}:predict", body)
        assert (status, json.loads(answer)) == (200, {"predictions": [0.5 + expected]})


@pytest.mark.parametrize("version", ["9" * 19, "1" * 5000])
def test_versions_out_of_range(server, version):
    status, _, body = server.request("POST", f"/v1/models/adder/versions/{version}:predict", "{}")
    assert (status, body) == (400, b"")
    status = server.request("GET", f"/v1/models/adder/versions/{'0' * 5000}2")[0]
    assert status == 200


def test_status_and_metadata(server):
    states = json.loads(server.request("GET", "/v1/models/adder")[2])["model_version_status"]
    assert [(state["version"], state["state"]) for state in states] == [
        ("2", "AVAILABLE"),
        ("1", "AVAILABLE"),
    ]
    answer = json.loads(server.request("GET", "/v1/models/adder/labels/stable/metadata")[2])
    assert answer["model_spec"] == {"name": "adder", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"


def test_cross_origin_headers(server):
    for origin in ("http://example.org", "https://example.org:8080"):
        status, headers, body = server.request(
            "OPTIONS", "/v1/models/adder", "", {"Origin": origin}
        )
        assert (status, body) == (200, b"")
        assert headers["Access-Control-Allow-Origin"] == "*"
    # TensorFlow Serving searches the Origin for `https?://` (http_rest_api_handler.cc).
    for origin in ("x", "null", "file://", "HTTP://example.org", "http:/example.org", ""):
        assert server.request("OPTIONS", "/v1/models/adder", "", {"Origin": origin})[0] == 400
    assert server.request("OPTIONS", "/v1/models/adder")[0] == 400
    assert (
        server.request("GET", "/v1/models/nope")[1]["Access-Control-Allow-Methods"] == "POST, GET"
    )


def test_classify_and_regress_are_not_supported(server):
    for method in ("classify", "regress"):
        status, _, body = server.request("POST", f"/v1/models/adder:{method}", "{}")
        assert (status, json.loads(body)["error"].split(":")[0]) == (
            501,
            f"{method} is not supported by this server",
        )


def test_metrics_have_the_names_of_tensorflow_serving(server):
    def value(line_start):
        page = server.request("GET", "/monitoring/prometheus/metrics")[2].decode()
        lines = [line for line in page.splitlines() if line.startswith(line_start)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    ok = ':tensorflow:serving:request_count{model_name="adder",status="OK"}'
    failed = ':tensorflow:serving:request_count{model_name="adder",status="INVALID_ARGUMENT"}'
    latency = ':tensorflow:serving:request_latency_count{model_name="adder",API="predict"'
    before = value(ok), value(failed), value(latency)
    server.predict("adder", instances=[1])
    server.predict("adder", instances=[2])
    server.predict("adder", instances=["x"])
    assert (value(ok), value(failed), value(latency)) == (
        before[0] + 2,
        before[1] + 1,
        before[2] + 3,
    )
    assert value(":tensorflow:cc:saved_model:load_attempt_count{model_path=") == 1
    assert "unknown" in server.predict("unknown", instances=[1])["error"]
    page = server.request("GET", "/monitoring/prometheus/metrics")[2].decode()
    assert "unknown" not in page, "made-up names must not fill the metrics"
    buckets = [
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith(
            ':tensorflow:serving:request_latency_bucket{model_name="adder",API="predict"'
        )
    ]
    assert buckets == sorted(buckets) and buckets[-1] == value(latency)


def test_a_body_over_the_limit(server):
    status, _, body = server.request("POST", "/v1/models/adder:predict", b" " * 2_000_001)
    assert (status, json.loads(body)) == (413, {"error": "the body is over 2000000 bytes"})
    assert server.request("POST", "/v1/models/adder:predict", b" " * 2_000_000)[0] == 400
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {"Content-Encoding": "gzip"}
    status, _, body = server.request("POST", "/v1/models/adder:predict", bomb, headers)
    assert status == 413
    assert "when decompressed" in json.loads(body)["error"]
    packed = gzip.compress(b'{"instances": [1]}')
    assert server.request("POST", "/v1/models/adder:predict", packed, headers)[0] == 200


@pytest.mark.parametrize("more", [b"more", gzip.compress(b"", mtime=0)], ids=["text", "member"])
def test_only_one_gzip_member_is_read(server, more):
    packed = gzip.compress(b'{"instances": [1]}') + more
    headers = {"Content-Encoding": "gzip"}
    status, _, body = server.request("POST", "/v1/models/adder:predict", packed, headers)
    assert (status, json.loads(body).keys()) == (400, {"error"})


def test_a_chunked_body_over_the_limit(server):
    def chunks():
        for _ in range(30):
            yield b" " * 100_000

    status, _, _ = server.request("POST", "/v1/models/adder:predict", chunks())
    assert status == 413


def test_requests_beyond_the_queue_get_503(server):
    def ask(_):
        body = json.dumps({"instances": [0.7]})
        return server.request("POST", "/v1/models/sleeper:predict", body)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    statuses = sorted(status for status, _, _ in answers)
    assert statuses.count(503) == 8
    # On a busy machine, a queued request may time out.
    assert set(statuses) <= {200, 503, 504}
    refused = next(answer for answer in answers if answer[0] == 503)
    assert refused[1]["Retry-After"] == "1"
    assert "queue" in json.loads(refused[2])["error"]
    assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


@pytest.mark.slow
def test_an_answer_that_takes_too_long(server):
    status, _, body = server.request(
        "POST", "/v1/models/sleeper:predict", json.dumps({"instances": [3.5]})
    )
    assert status == 504
    assert json.loads(body) == {"error": "no answer in time (2.5 s)"}
    time.sleep(1.2)


@pytest.mark.slow
def test_requests_that_time_out_in_the_queue_free_their_places_and_do_not_run(server):
    def ask(_):
        body = json.dumps({"instances": [3.5]})
        return server.request("POST", "/v1/models/sleeper:predict", body)[0]

    # Two run and two wait for a thread until all time out.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [504] * 4
    assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


def _png(width, height) -> bytes:
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min(width * height, 1_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 1), (10_001, 10_000)])
def test_huge_pictures_are_refused(server, size):
    instance = {"b64": base64.b64encode(_png(*size)).decode()}
    answer = server.predict("blobs", instances=[instance])
    assert "pixels" in answer["error"] or "PNG" in answer["error"]


@pytest.mark.parametrize("field", ["image/encoded", "other"])
def test_huge_pictures_in_examples_are_refused(server, field):
    feature = {field: tf.train.Feature(bytes_list=tf.train.BytesList(value=[_png(20_000, 20_000)]))}
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    instance = {"b64": base64.b64encode(example.SerializeToString()).decode()}
    answer = server.predict("blobs", signature_name="serving_examples", instances=[instance])
    assert "pixels" in answer["error"]


@settings(max_examples=60)
@given(st.data())
def test_damaged_pictures_get_an_answer(server, data):
    stream = io.BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    body = json.dumps({"instances": [{"b64": base64.b64encode(content).decode()}]})
    status, _, answer = server.request("POST", "/v1/models/blobs:predict", body)
    assert status in (200, 400)
    assert json.loads(answer).keys() <= {"predictions", "error"}


_PIECES = st.sampled_from(
    ['"instances"', '"inputs"', '"x"', '"b64"', '"aGk="', "1", "-1e9", "NaN", "null", "true"]
    + list("{}[]:, ")
)


@settings(max_examples=150)
@given(st.lists(_PIECES, max_size=20).map("".join) | st.text(max_size=30) | st.binary(max_size=30))
def test_any_body_gets_a_json_answer(server, body):
    body = body.encode() if isinstance(body, str) else body
    status, _, answer = server.request("POST", "/v1/models/adder:predict", body)
    assert status in (200, 400)
    json.loads(answer)
    status, _, answer = server.request(
        "POST", "/v1/models/adder:predict", b'{"instances": [' + body + b"]}"
    )
    assert status in (200, 400)
    json.loads(answer)


def test_the_page_is_for_browsers_only(server):
    status, headers, body = server.request("GET", "/", None, {"Accept": "text/html,*/*"})
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert b'["blobs", "sleeper", "adder"]' in body
    assert server.request("GET", "/")[0] == 404


def test_recommended_thresholds_are_outside_the_api(server):
    status, headers, body = server.request("GET", "/page/models/blobs/versions/20")
    assert (status, headers.get_content_type()) == (200, "application/json")
    assert json.loads(body) == {"default": 0.5, "by_class": {}}, "a model without a report"
    for path in ("blobs/versions/21", "none/versions/1", "..%2Fblobs/versions/20"):
        assert server.request("GET", f"/page/models/{path}")[0] == 404, path


def test_nothing_unexpected_was_logged(server):
    assert "Traceback" not in server.log.read_text()
    assert server.process.poll() is None

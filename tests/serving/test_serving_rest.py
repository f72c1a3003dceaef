"""The REST API of a running server, and what keeps it up."""

import base64
import concurrent.futures
import contextlib
import gzip
import http.client
import io
import json
import socket
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
def test_versions_that_are_no_int64(server, version):
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
    # TensorFlow Serving looks for RE2 `https?://` in the Origin (http_rest_api_handler.cc).
    for origin in ("x", "null", "file://", "HTTP://example.org", "http:/example.org", ""):
        assert server.request("OPTIONS", "/v1/models/adder", "", {"Origin": origin})[0] == 400
    assert server.request("OPTIONS", "/v1/models/adder")[0] == 400
    assert (
        server.request("GET", "/v1/models/nope")[1]["Access-Control-Allow-Methods"] == "POST, GET"
    )


def test_classify_and_regress_say_that_they_are_not_supported(server):
    for method in ("classify", "regress"):
        status, _, body = server.request("POST", f"/v1/models/adder:{method}", "{}")
        assert (status, json.loads(body)["error"].split(":")[0]) == (
            501,
            f"{method} is not supported by this server",
        )


def test_metrics_count_requests_under_tensorflow_servings_names(server):
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
    assert "unknown" not in page, "names that clients make up must not fill the metrics"
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
    assert (status, json.loads(body)) == (413, {"error": "the body has over 2000000 bytes"})
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


def test_more_requests_than_places_are_told_to_come_back(server):
    def ask(_):
        body = json.dumps({"instances": [0.7]})
        return server.request("POST", "/v1/models/sleeper:predict", body)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    statuses = sorted(status for status, _, _ in answers)
    assert statuses.count(503) == 8
    # On a busy machine, one that waits for a thread may take longer than the server allows.
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
def test_requests_given_up_in_the_queue_free_their_places_and_are_not_run(server):
    def ask(_):
        body = json.dumps({"instances": [3.5]})
        return server.request("POST", "/v1/models/sleeper:predict", body)[0]

    # Two run and two wait for a thread, until all are told that it took too long.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [504] * 4
    assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


def _raw(server, data: bytes, wait_s=5.0) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(data)
        connection.settimeout(wait_s)
        try:
            return connection.recv(1000)
        except ConnectionResetError:
            return b""


_HEAD = b"POST /v1/models/adder:predict HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / \r\n\r\n",
        _HEAD + b"Content-Length: -1\r\n\r\n",
        _HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(server, data):
    head, _, body = _raw(server, data).partition(b"\r\n\r\n")
    assert b" 400 " in head.split(b"\r\n")[0]
    assert json.loads(body).keys() == {"error"}


@pytest.mark.parametrize("length, status", [(8000, 200), (8300, 400), (60_000, 400)])
def test_headers_of_more_than_8190_bytes_are_refused_in_json(server, length, status):
    head = b"GET /v1/models/adder HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * length + b"\r\n\r\n"
    answer = _raw(server, head)
    assert int(answer.split()[1]) == status
    if status == 400:
        assert "8190" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET http://elsewhere:80/v1/models/adder", 200),
        (b"GET //elsewhere/v1/models/adder", 200),
        (b"GET http://elsewhere", 404),
        (b"GET /v1/models/%61dder", 200),
        (b"GET /v1/models/%6", 400),
        (b"GET /v1/models/a|b", 400),
        (b'GET /"', 400),
        (b"GET /v1/models/\xc3\xa4", 400),
        (b"TRACE /v1/models/adder", 501),
        (b"TRACE /", 501),
        (b"PATCH /v1/models/adder", 400),
        (b"PATCH /", 404),
    ],
)
def test_request_lines(server, line, status):
    answer = _raw(server, line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert int(answer.split()[1]) == status
    if status == 400:
        assert json.loads(answer.partition(b"\r\n\r\n")[2]).keys() == {"error"}


def test_a_client_that_waits_for_continue(server):
    body = b'{"instances": [1]}'
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(5)
        connection.sendall(
            _HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert b'{"predictions":[3.0]}' in connection.recv(1000)


def test_requests_cut_off_in_the_middle_free_their_places(server):
    for _ in range(10):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(_HEAD + b'Content-Length: 100\r\n\r\n{"instances')
        # Linger 0: the connection is reset, not closed.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    time.sleep(0.2)
    assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


def test_half_sent_bodies_turn_nobody_else_away(server):
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            connection = socket.create_connection(("127.0.0.1", server.port))
            stack.callback(connection.close)
            connection.sendall(_HEAD + b"Content-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


def test_bodies_that_are_too_large_together_are_refused(server):
    with contextlib.ExitStack() as stack:
        for _ in range(9):  # At most 8 times --max_body_bytes are held.
            connection = socket.create_connection(("127.0.0.1", server.port))
            stack.callback(connection.close)
            connection.sendall(_HEAD + b"Content-Length: 1999000\r\n\r\n" + b" " * 1_900_000)
        time.sleep(0.2)
        answer = server.request("POST", "/v1/models/adder:predict", b" " * 1_500_000)
        assert answer[0] == 503
    time.sleep(0.2)
    assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


@pytest.mark.slow
def test_a_client_that_never_sends_its_body_is_given_up(server):
    answer = _raw(server, _HEAD + b"Content-Length: 100\r\n\r\n{", wait_s=10)
    assert b" 408 " in answer.split(b"\r\n")[0]


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
def test_pictures_of_absurd_size_are_refused(server, size):
    instance = {"b64": base64.b64encode(_png(*size)).decode()}
    answer = server.predict("blobs", instances=[instance])
    assert "pixels" in answer["error"] or "PNG" in answer["error"]


@pytest.mark.parametrize("field", ["image/encoded", "other"])
def test_pictures_of_absurd_size_inside_examples_are_refused(server, field):
    feature = {field: tf.train.Feature(bytes_list=tf.train.BytesList(value=[_png(20_000, 20_000)]))}
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    instance = {"b64": base64.b64encode(example.SerializeToString()).decode()}
    answer = server.predict("blobs", signature_name="serving_examples", instances=[instance])
    assert "pixels" in answer["error"]


@pytest.mark.slow
def test_a_head_that_never_ends_is_given_up(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(10)
        start = time.monotonic()
        connection.sendall(_HEAD)
        assert connection.recv(100) == b""
        assert 2 < time.monotonic() - start < 8


@pytest.mark.slow
def test_a_connection_waits_longer_between_requests_than_for_the_first(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for pause in (3.0, 0.0):
        connection.request("GET", "/v1/models/adder")
        assert connection.getresponse().read()
        time.sleep(pause)


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


def test_the_page_asks_for_recommended_thresholds_outside_the_api(server):
    status, headers, body = server.request("GET", "/page/models/blobs/versions/20")
    assert (status, headers.get_content_type()) == (200, "application/json")
    assert json.loads(body) == {"default": 0.5, "by_class": {}}, "a model without a report"
    for path in ("blobs/versions/21", "none/versions/1", "..%2Fblobs/versions/20"):
        assert server.request("GET", f"/page/models/{path}")[0] == 404, path


def test_nothing_unexpected_was_logged(server):
    assert "Traceback" not in server.log.read_text()
    assert server.process.poll() is None

"""The client against a running server, and against servers that misbehave."""

import concurrent.futures
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from data.errors import DataError
from data.saved_model import OUTPUTS
from serving import client, detecting
from serving.client import Client
from serving.detecting import Refused

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["client", *map(str, arguments)])
        status = client.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def misbehaving():
    """Starts a server that gives these answers in turn: (status, headers, body)."""
    servers = []

    def start(answers):
        left = list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802
                self.rfile.read(int(self.headers["Content-Length"]))
                answer = left.pop(0)
                if answer is None:  # closes the connection without an answer
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", left

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


_GOOD = {name: [] for name in OUTPUTS} | {"num_detections": 0}
_ANSWER = (200, {}, json.dumps({"predictions": [_GOOD]}).encode())
_BUSY = (503, {}, b'{"error": "Too many"}')


def test_options_are_passed_on_to_the_client(monkeypatch):
    seen = []
    monkeypatch.setattr(
        client, "Client", lambda *a, **n: seen.append((*a, n)) or SimpleNamespace(predict="ask")
    )
    monkeypatch.setattr(
        client, "detect", lambda o, ask, by: seen.append((o.batch_size, ask, by.default)) or 1
    )
    assert client.main(["p.jpg"]) == 1
    assert seen == [("http://localhost:8501", "ssd", 30.0, 4, {"label": None}), (8, "ask", 0.5)]
    seen.clear()
    options = {"url": "grpc://h:1", "model": "m", "timeout": 3.0, "retries": 1, "label": "canary"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert client.main(["p.jpg", *words, "--batch-size", "2", "--score-threshold", "0.25"]) == 1
    *given, _ = options.values()
    assert seen == [(*given, {"label": "canary"}), (2, "ask", 0.25)]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_detections_over_rest_and_grpc(run, server, picture, tmp_path, protocol):
    port = server.port if protocol == "http" else server.grpc_port
    second = tmp_path / "empty.jpg"
    Image.new("RGB", (64, 48), "grey").save(second)
    arguments = ["--url", f"{protocol}://127.0.0.1:{port}", "--model", "blobs"]
    arguments += ["--draw", tmp_path / "out"]
    status, out, err = run(picture, second, *arguments, "--format", "json")
    assert (status, err) == (0, "")
    first, empty = map(json.loads, out.splitlines())
    assert [d["name"] for d in first["detections"]] in (["red", "blue"], ["blue", "red"])
    red = next(d for d in first["detections"] if d["name"] == "red")
    np.testing.assert_allclose(list(red["box"].values()), (0.1, 0.05, 0.5, 0.3), atol=1e-6)
    assert empty["detections"] == []
    assert (tmp_path / "out" / "blobs.detections.jpg").is_file()
    status, out, _ = run(picture, second, *arguments, "--batch-size", 1)
    assert out.splitlines()[1].startswith(f"{second}: no objects -> ")


def test_each_batch_is_drawn_to_the_files_of_its_pictures(run, server, tmp_path):
    images = []
    for number, color in enumerate(["red", "green", "blue", "red", "green"]):
        grey = 100 + 10 * number
        picture = Image.new("RGB", (64, 48), (grey,) * 3)
        strong = Image.new("RGB", (8 + 4 * number, 10), "lime" if color == "green" else color)
        picture.paste(strong, (4, 4))
        images.append((tmp_path / f"{number}-{color}.png", color, grey))
        picture.save(images[-1][0])
    options = ("--url", f"http://127.0.0.1:{server.port}", "--model", "blobs", "--batch-size", 2)
    paths = [path for path, *_ in images]
    status, out, err = run(*paths, *options, "--draw", tmp_path / "out", "--format", "json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == len(images) == len(list((tmp_path / "out").iterdir()))
    for line, (path, color, grey) in zip(lines, images, strict=True):
        assert path.name in line
        assert [found["name"] for found in json.loads(line)["detections"]] == [color]
        drawn = Image.open(tmp_path / "out" / f"{path.stem}.detections.jpg")
        corner = drawn.getpixel((drawn.width - 2, drawn.height - 2))
        assert np.abs(np.subtract(corner, grey)).max() < 5


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_server_errors_are_shown(run, server, picture, tmp_path, protocol):
    port = server.port if protocol == "http" else server.grpc_port
    url = f"{protocol}://127.0.0.1:{port}"
    status, _, err = run(picture, "--url", url, "--model", "nope", "--no-draw")
    assert status == 2
    assert err.startswith(f"error: {url}: ") and "no version in service" in err
    _, _, err = run(picture, "--url", url, "--model", "adder", "--no-draw")
    assert "input" in err


def test_a_busy_server_is_retried(misbehaving):
    url, left = misbehaving([_BUSY, None, _BUSY, _ANSWER])
    assert Client(url, "m", wait_s=0.01).predict([b"picture"]) == [_GOOD]
    assert left == []


def test_retries_end(misbehaving):
    url, left = misbehaving([_BUSY] * 5)
    with pytest.raises(DataError, match=r"the server is busy \(Too many\), 3 times"):
        Client(url, "m", retries=2, wait_s=0.01).predict([b"picture"])
    assert len(left) == 2


def test_the_wait_doubles_and_is_never_shorter_than_the_server_asks(misbehaving, monkeypatch):
    asks = (503, {"Retry-After": "3"}, b"{}")
    long = (503, {"Retry-After": "3000"}, b"{}")
    url, _ = misbehaving([_BUSY, _BUSY, asks, long, _ANSWER])
    waits = []
    monkeypatch.setattr(client.time, "sleep", waits.append)
    Client(url, "m", wait_s=0.2).predict([b"picture"])
    assert 0.15 <= waits[0] <= 0.25
    assert 0.3 <= waits[1] <= 0.5
    assert waits[2] == 3.0
    assert waits[3] == 30.0, "nobody waits longer than that"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, {}, b'{"error": "JSON Value"}'), "400 JSON Value"),
        ((500, {}, b"<html>oops"), "500 <html>oops"),
        ((200, {}, b"<html>"), "not a prediction"),
        *(
            ((200, {}, body), "not a prediction")
            for body in (
                *(b"[1]", b'"x"', b"null", b'{"outputs": 1}', b"\xff"),
                *(b'{"predictions": 5}', b'{"predictions": null}', b'{"predictions": {}}'),
            )
        ),
        ((200, {}, b'{"predictions": [1.0]}'), "model m does not answer detection_boxes"),
        ((200, {}, b'{"predictions": []}'), "model m does not answer detection_boxes"),
    ],
)
def test_other_errors_are_not_retried(misbehaving, answer, message):
    url, left = misbehaving([answer, _ANSWER])
    with pytest.raises(DataError, match=message):
        Client(url, "m", wait_s=0.01).predict([b"picture"])
    assert left == [_ANSWER]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            {"num_detections": 5, "detection_boxes": []},
            "num_detections is 5, but detection 1 lacks a valid ",
        ),
        ({"num_detections": 2}, "num_detections is 2, but detection 2 lacks a valid "),
        ({"num_detections": None}, "num_detections is None, but detection 1 lacks a valid "),
        ({"num_detections": 1e400}, "num_detections is inf, but detection 1 lacks a valid "),
        (
            {"detection_boxes": [[0, 0, 1]]},
            "detection 1 lacks a valid class name, class, score or box",
        ),
        ({"detection_boxes": [["a", 0, 1, 1]]}, "detection 1 lacks"),
        ({"detection_scores": [None]}, "detection 1 lacks"),
        ({"detection_scores": 0.5}, "detection 1 lacks"),
        ({"detection_classes": {}}, "detection 1 lacks"),
    ],
)
def test_inconsistent_answers(run, misbehaving, picture, tmp_path, change, found):
    whole = {
        "num_detections": 1,
        "detection_boxes": [[0, 0, 1, 1]],
        "detection_scores": [0.5],
        "detection_classes": [1],
        "detection_class_names": ["dog"],
    }
    bodies = [json.dumps({"predictions": [answer]}).encode() for answer in (whole, whole | change)]
    url, _ = misbehaving([(200, {}, body) for body in bodies])
    assert run(picture, "--url", url, "--no-draw")[0] == 0
    status, _, err = run(picture, "--url", url, "--no-draw")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {url}: model ssd gives an inconsistent answer") and found in err


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (413, Refused), (404, DataError), (500, DataError)]
)
def test_bad_pictures_and_too_many_bytes_of_them_are_refusals(misbehaving, status, kind):
    url, _ = misbehaving([(status, {}, b'{"error": "no"}')])
    with pytest.raises(DataError) as caught:
        Client(url, "m").predict([b"x"])
    assert type(caught.value) is kind


def test_a_grpc_answer_with_a_missing_row():
    asked = []

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            asked.append((request.model_spec.name, request.model_spec.version_label))
            response = predict_pb2.PredictResponse()
            for name in OUTPUTS:
                response.outputs[name].CopyFrom(tf.make_tensor_proto(np.zeros(1)))
            return response

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with pytest.raises(DataError, match="does not answer detection_boxes.* for each picture"):
            Client(url, "m", label="canary").predict([b"picture"] * 2)
    finally:
        server.stop(None)
    assert asked == [("m", "canary")]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_takes_too_long(protocol):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{protocol}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DataError, match="no answer within 0.3 s|no connection"):
            Client(url, "m", timeout_s=0.3, retries=0).predict([b"picture"])


def test_no_server_at_the_address(run, picture, tmp_path):
    status, _, err = run(picture, "--url", "http://127.0.0.1:9", "--retries", 0, "--no-draw")
    assert status == 2
    assert "no connection" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8501", "ftp://host", "http://", "http://host:abc", "http://host:99999"),
        *("grpc://host:abc", "http://a host", "http://[::1"),
    ],
)
def test_invalid_urls(url):
    with pytest.raises(DataError, match="not a server's URL"):
        Client(url, "m")


@pytest.mark.parametrize("form", ["text", "json", "csv", "coco"])
def test_a_closed_pipe_is_not_an_error(server, picture, form):
    """As with `... | head`: the pipe is closed before anything is written."""
    url = f"http://127.0.0.1:{server.port}"
    command = [sys.executable, "-m", "serving.client", picture, "--url", url, "--model", "blobs"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        found = subprocess.run(
            [*command, "--format", form, "--no-draw"],
            cwd=_ROOT,
            stdout=output,
            stderr=-1,
            check=False,
        )
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_refused_picture_is_named_and_the_others_are_retried_alone(
    run, server, picture, tmp_path, protocol
):
    port = server.port if protocol == "http" else server.grpc_port
    broken = tmp_path / "half.jpg"
    Image.open(picture).save(broken)
    broken.write_bytes(broken.read_bytes()[:-900])
    last = tmp_path / "empty.jpg"
    Image.new("RGB", (64, 48), "grey").save(last)
    status, out, err = run(
        *(picture, broken, last, "--url", f"{protocol}://127.0.0.1:{port}", "--model", "blobs"),
        *("--format", "json", "--no-draw"),
    )
    assert status == 1
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(a["image"], len(a["detections"])) for a in answers] == [
        (str(picture), 2),
        (str(last), 0),
    ]
    refusal, *summary = err.splitlines()
    assert refusal.startswith(f"error: {broken}: {protocol}://127.0.0.1:{port}: ")
    assert summary == ["1 of 3 pictures failed:", f"  {broken}"]


def test_results_are_kept_when_the_server_goes_away(
    run, misbehaving, picture, tmp_path, monkeypatch
):
    # With two requests at a time, the second might get the first answer.
    monkeypatch.setattr(detecting, "_AT_ONCE", 1)
    url, left = misbehaving([_ANSWER, _BUSY, _ANSWER])
    second = shutil.copy(picture, tmp_path / "second.jpg")
    status, out, err = run(
        *(picture, second, "--url", url, "--batch-size", 1, "--retries", 0, "--no-draw")
    )
    assert status == 2
    assert out == f"{picture}: no objects\n"
    assert err.startswith(f"error: {url}: the server is busy") and err.count("\n") == 1


def test_a_request_fits_the_batches_of_the_shipped_server(monkeypatch, capsys):
    text = (_ROOT / "serving" / "tensorflow_serving" / "batching.config").read_text()
    (most,) = re.findall(r"^max_batch_size { value: (\d+) }", text, re.M)
    monkeypatch.setattr("sys.argv", ["client", "--help"])
    with pytest.raises(SystemExit):
        client.main()
    assert f"here {most} (default: {most})" in " ".join(capsys.readouterr().out.split())

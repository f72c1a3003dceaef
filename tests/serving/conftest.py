"""A tiny model with the signatures and outputs of an exported detector: each pure colour (red,
green, blue) in a picture is one object, with the box around its pixels."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageColor

from data.palette import class_colour

CLASS_NAMES = ("red", "green", "blue")
MAX_DETECTIONS = 5


def rgb_of(name) -> tuple[int, int, int]:
    """The colour in which the tiny detector's class is drawn."""
    return ImageColor.getrgb(class_colour(CLASS_NAMES.index(name) + 1))


def _detect(image):
    """Detections in one uint8 [h, w, 3] picture; the score is the filled share of the box."""
    strong = image > 160
    only = [
        strong[..., c] & ~strong[..., (c + 1) % 3] & ~strong[..., (c + 2) % 3] for c in range(3)
    ]
    size = tf.cast(tf.tile(tf.shape(image)[:2], [2]), tf.float32)
    boxes, scores = [], []
    for mask in only:
        where = tf.where(mask)
        found = tf.shape(where)[0] > 0
        where = tf.cond(found, lambda w=where: w, lambda: tf.zeros([1, 2], tf.int64))
        corners = tf.concat([tf.reduce_min(where, 0), tf.reduce_max(where, 0) + 1], 0)
        corners = tf.cast(corners, tf.float32)
        area = (corners[2] - corners[0]) * (corners[3] - corners[1])
        boxes.append(corners / size)
        scores.append(tf.reduce_sum(tf.cast(mask, tf.float32)) / area)
    scores = tf.stack(scores)
    order = tf.argsort(scores, direction="DESCENDING")
    order = order[: tf.reduce_sum(tf.cast(scores > 0, tf.int32))]
    pad = [[0, MAX_DETECTIONS - tf.shape(order)[0]]]
    return {
        "detection_boxes": tf.pad(tf.gather(tf.stack(boxes), order), [*pad, [0, 0]]),
        "detection_scores": tf.pad(tf.gather(scores, order), pad),
        "detection_classes": tf.pad(tf.cast(order, tf.int64) + 1, pad),
        "detection_class_names": tf.pad(
            tf.gather(tf.constant(CLASS_NAMES), order), pad, constant_values=""
        ),
        "num_detections": tf.shape(order, tf.int64)[0],
    }


_OUTPUT_SPECS = {
    "detection_boxes": tf.TensorSpec([MAX_DETECTIONS, 4], tf.float32),
    "detection_scores": tf.TensorSpec([MAX_DETECTIONS], tf.float32),
    "detection_classes": tf.TensorSpec([MAX_DETECTIONS], tf.int64),
    "detection_class_names": tf.TensorSpec([MAX_DETECTIONS], tf.string),
    "num_detections": tf.TensorSpec([], tf.int64),
}


def _detect_bytes(image_bytes):
    image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
    return _detect(tf.ensure_shape(image, [None, None, 3]))


def save_blob_model(folder) -> None:
    """Saves the tiny detector as a SavedModel."""
    map_fn = lambda fn, x: tf.map_fn(fn, x, fn_output_signature=_OUTPUT_SPECS)  # noqa: E731

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(image_bytes):
        return map_fn(_detect_bytes, image_bytes)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def serving_tensor(images):
        return map_fn(_detect, images)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def serving_examples(examples):
        feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return map_fn(_detect_bytes, tf.io.parse_example(examples, feature)["image/encoded"])

    signatures = {
        "serving_default": serving_default,
        "serving_tensor": serving_tensor,
        "serving_examples": serving_examples,
    }
    module = tf.Module()
    module.functions = signatures
    tf.saved_model.save(module, str(folder), signatures=signatures)


@pytest.fixture(scope="session")
def blob_model(tmp_path_factory):
    """Base folder of the tiny detector, with versions 3 and 20 and another folder."""
    base = tmp_path_factory.mktemp("models") / "blobs"
    for version in ("3", "20"):
        save_blob_model(base / version)
    (base / "tmp-21").mkdir()
    return base


def blob_picture(size=(200, 100), blobs=()) -> Image.Image:
    """A grey picture with filled rectangles; blobs are (class name, (ymin, xmin, ymax, xmax))."""
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    for name, (ymin, xmin, ymax, xmax) in blobs:
        rows = slice(round(ymin * size[1]), round(ymax * size[1]))
        columns = slice(round(xmin * size[0]), round(xmax * size[0]))
        pixels[rows, columns] = np.eye(3, dtype=np.uint8)[CLASS_NAMES.index(name)] * 255
    return Image.fromarray(pixels)


@pytest.fixture
def picture(tmp_path):
    """Path of a PNG with a red and a blue object at known positions."""
    path = tmp_path / "blobs.png"
    blobs = [("red", (0.1, 0.05, 0.5, 0.3)), ("blue", (0.3, 0.5, 0.9, 0.95))]
    blob_picture(blobs=blobs).save(path)
    return path


def _save_adder(folder, amount: int) -> None:
    """Saves a model that adds a number to x, so that the answer identifies the version."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serving_default(x):
        return {"y": x + float(amount)}

    module = tf.Module()
    module.function = serving_default
    tf.saved_model.save(module, str(folder), signatures=serving_default)


def _save_sleeper(folder) -> None:
    """Saves a model that takes x seconds to answer."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, "x")])
    def serving_default(x):
        end = tf.timestamp() + tf.reduce_max(x)
        tf.while_loop(
            lambda i: tf.timestamp() < end,
            lambda i: [i + tf.reduce_sum(tf.random.normal([1000]))],
            [tf.constant(0.0)],
        )
        with tf.control_dependencies([end]):
            return {"y": x}

    module = tf.Module()
    module.function = serving_default
    tf.saved_model.save(module, str(folder), signatures=serving_default)


@pytest.fixture(scope="session")
def save_adder():
    return _save_adder


@pytest.fixture(scope="session")
def save_sleeper():
    return _save_sleeper


@dataclass
class RunningServer:
    """A server process under test."""

    process: subprocess.Popen
    port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body=None, headers=None):
        """Status, headers and body of one HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def predict(self, model: str, **body) -> dict:
        """The JSON answer to a predict request, error or not."""
        path = f"/v1/models/{model}:predict"
        return json.loads(self.request("POST", path, json.dumps(body))[2])

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    """Starts servers with the given flags and, by default, waits until they are ready."""
    processes = []

    def start(*flags, wait: bool = True) -> RunningServer:
        port, grpc_port = free_ports(2)
        log = tmp_path_factory.mktemp("server") / "log.txt"
        command = [sys.executable, "-m", "serving.server", *map(str, flags)]
        command += [f"--rest_api_port={port}", f"--port={grpc_port}"]
        root = Path(__file__).parents[2]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=root, stdout=output, stderr=output)
        processes.append(process)
        server = RunningServer(process, port, grpc_port, log)
        deadline = time.monotonic() + 300
        while wait and "\nserving " not in "\n" + log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return server

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def server(start_server, blob_model, tmp_path_factory):
    """A server with the models blobs, sleeper and adder, tight limits, metrics and CORS."""
    folder = tmp_path_factory.mktemp("served")
    _save_sleeper(folder / "sleeper" / "1")
    _save_adder(folder / "adder" / "1", 1)
    _save_adder(folder / "adder" / "2", 2)
    models = "".join(
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}\n'
        for name, base, more in (
            ("blobs", blob_model, ""),
            ("sleeper", folder / "sleeper", ""),
            (
                "adder",
                folder / "adder",
                'model_version_policy { all {} } version_labels { key: "stable" value: 1 }',
            ),
        )
    )
    (folder / "models.config").write_text(f"model_config_list {{ {models} }}")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    return start_server(
        "--model_config_file",
        folder / "models.config",
        "--monitoring_config_file",
        folder / "monitoring.config",
        "--rest_api_enable_cors_support",
        "--rest_api_num_threads=2",
        "--rest_api_timeout_in_ms=2500",
        "--max_requests=4",
        "--max_body_bytes=2000000",
    )

"""Checks that a served model answers as in its evaluation, and measures what it costs."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from components.serving_check.server import MODEL_NAME, CheckedServer, started_server
from data.errors import DataError
from data.fields import COMMON
from data.saved_model import EXAMPLES_SIGNATURE, IDENTITY, OUTPUTS, WARM_UP_REQUESTS
from serving.client import Client
from serving.detections import Detection, detections_of


@dataclass(frozen=True)
class Limits:
    """Limits on the server; the tolerance is for scores and sides of boxes."""

    max_latency_ms: float
    max_memory_mb: float
    score_tolerance: float


@dataclass(frozen=True)
class Kept:
    """Which detections a model returns: at most this many, above this score."""

    max_detections: int
    score_threshold: float

    @classmethod
    def by(cls, model: str) -> "Kept":
        """Reads them from the SavedModel in a folder; DataError if they are not there."""
        path = f"{model}/{IDENTITY}"
        try:
            with tf.io.gfile.GFile(path, "r") as file:
                config = json.loads(file.read())["trainer"]
            return cls(config["max_detections"], config["score_threshold"])
        except (tf.errors.OpError, ValueError, KeyError) as error:
            raise DataError(f"{path}: does not say what the model returns ({error})") from error

    def lowest_score(self, detections: Sequence[Detection]) -> float:
        """The score below which an answer of this length leaves out detections."""
        if len(detections) < self.max_detections:
            return self.score_threshold
        return min(detection.score for detection in detections)


def check(model: str, records: Sequence[bytes], limits: Limits) -> dict:
    """Serves a SavedModel, sends warm-up requests and pictures, and compares the answers.

    Compares the signature `serving_examples` on a record in this process, as in the Evaluator, with
    the server's REST answer for the record's picture. Each picture is a separate request.

    Args:
      model: folder of the SavedModel.
      records: serialised `tf.Example`s, each with a picture.

    Returns:
      `problems`, sentences that say why the model must not be served, if any; the number of
      `pictures` sent; and, if the server answered, how many were `equal`, `detections` in total,
      `p50_ms` and `p99_ms` of a request, and the server's peak `memory_mb`.
    """
    problems: list[str] = []
    found = {"pictures": len(records), "problems": problems}
    try:
        with started_server(model) as server:
            # Runs while the server starts.
            expected = _evaluate(model, records)
            kept = Kept.by(model)
            server.wait_until_ready()
            answers, latencies_ms = _ask(server, _warm_up_pictures(model), _pictures(records))
            memory_mb = server.peak_memory_mb()
    except DataError as error:
        problems.append(str(error))
        return found
    differences = [
        find_difference(*pair, limits.score_tolerance, kept)
        for pair in zip(expected, answers, strict=True)
    ]
    found |= {
        "equal": differences.count(""),
        "detections": sum(map(len, answers)),
        **percentiles(latencies_ms),
        "memory_mb": round(memory_mb),
    }
    unequal = [
        (name, text) for name, text in zip(_names(records), differences, strict=True) if text
    ]
    if unequal:
        problems.append(
            f"{len(unequal)} of {len(records)} pictures get different detections from the server "
            f"than from {EXAMPLES_SIGNATURE} (serving.score_tolerance={limits.score_tolerance:g}); "
            f"the first, {unequal[0][0]}: {unequal[0][1]}"
        )
    problems += broken_limits(found, limits)
    return found


def percentiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    """`p50_ms` and `p99_ms`: percentiles of the requests' latencies."""
    values = np.percentile(latencies_ms, (50, 99))
    return {f"p{p}_ms": round(float(v), 1) for p, v in zip((50, 99), values, strict=True)}


def find_difference(
    expected: Sequence[Detection],
    answered: Sequence[Detection],
    tolerance: float,
    kept: Kept,
) -> str:
    """Describes a detection that only one of two answers has; "" if there is none.

    Two detections are the same if their classes are and their scores and box sides differ by at
    most `tolerance`. Detections within `tolerance` of an answer's lowest possible score may be
    missing, since rounding decides whether they are kept.
    """
    left = list(answered)
    for detection in expected:
        partner = next((other for other in left if _same(detection, other, tolerance)), None)
        if partner is not None:
            left.remove(partner)
        elif not detection.score <= kept.lowest_score(answered) + tolerance:
            return f"{_describe(detection)} is not among the server's"
    for detection in left:
        if not detection.score <= kept.lowest_score(expected) + tolerance:
            return f"{_describe(detection)} is only among the server's"
    return ""


def broken_limits(measured: dict, limits: Limits) -> list[str]:
    """A sentence for each exceeded limit."""
    problems = []
    if measured["p99_ms"] > limits.max_latency_ms:
        problems.append(
            f"99 % of the requests took up to {measured['p99_ms']:g} ms, "
            f"more than serving.max_latency_ms={limits.max_latency_ms:g}"
        )
    if measured["memory_mb"] > limits.max_memory_mb:
        problems.append(
            f"the server took {measured['memory_mb']:g} MB of memory, "
            f"more than serving.max_memory_mb={limits.max_memory_mb:g}"
        )
    return problems


def _evaluate(model: str, records: Sequence[bytes]) -> list[list[Detection]]:
    """The evaluated signature's detections for each record, on the CPU like the server."""
    with tf.device("/CPU:0"):
        try:
            signatures = tf.saved_model.load(model).signatures
        except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
            raise DataError(f"{model}: the model does not load ({error})") from error
        if EXAMPLES_SIGNATURE not in signatures:
            raise DataError(f"{model}: the model has no signature {EXAMPLES_SIGNATURE}")
        try:
            outputs = signatures[EXAMPLES_SIGNATURE](examples=tf.constant(records))
        except tf.errors.OpError as error:
            raise DataError(f"{model}: {EXAMPLES_SIGNATURE} fails: {error.message}") from error
    arrays = {name: outputs[name].numpy() for name in OUTPUTS}
    return [
        detections_of({name: array[i] for name, array in arrays.items()}, 0.0)
        for i in range(len(records))
    ]


def _ask(
    server: CheckedServer, warm_up: Sequence[Sequence[bytes]], pictures: Sequence[bytes]
) -> tuple[list[list[Detection]], list[float]]:
    """The server's answer to each picture and its latency in ms."""
    # A retry would hide that the first try failed.
    client = Client(server.url, MODEL_NAME, retries=0)
    answers, latencies_ms = [], []
    try:
        for request in warm_up:
            client.predict(request)
        for picture in pictures:
            started = time.perf_counter()
            (answer,) = client.predict([picture])
            latencies_ms.append((time.perf_counter() - started) * 1000)
            answers.append(detections_of(answer, 0.0))
    except DataError:
        server.check_alive()
        raise
    return answers, latencies_ms


def _warm_up_pictures(model: str) -> list[list[bytes]]:
    """The encoded pictures of each warm-up request stored with the model."""
    requests = []
    try:
        for record in tf.data.TFRecordDataset(f"{model}/{WARM_UP_REQUESTS}").as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            requests.append(list(tf.make_ndarray(request.inputs["image_bytes"])))
    except tf.errors.OpError as error:
        raise DataError(f"{model}: cannot read its warm-up requests ({error.message})") from error
    return requests


def _pictures(records: Sequence[bytes]) -> list[bytes]:
    return [_bytes_feature(record, COMMON.encoded) for record in records]


def _names(records: Sequence[bytes]) -> list[str]:
    return [_bytes_feature(record, COMMON.filename).decode() for record in records]


def _bytes_feature(record: bytes, name: str) -> bytes:
    return tf.train.Example.FromString(record).features.feature[name].bytes_list.value[0]


def _same(one: Detection, other: Detection, tolerance: float) -> bool:
    return (one.name, one.class_id) == (other.name, other.class_id) and all(
        abs(a - b) <= tolerance
        for a, b in zip((one.score, *one.box), (other.score, *other.box), strict=True)
    )


def _describe(detection: Detection) -> str:
    sides = ", ".join(f"{side:.4f}" for side in detection.box)
    return f"{detection.name} {detection.score:.4f} at ({sides})"

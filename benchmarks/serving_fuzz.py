"""Sends random requests, JSON and damaged pictures from hypothesis to the embedded server.

    python -m benchmarks.serving_fuzz --minutes 30

Every answer must be JSON with status 200, 4xx or 503, and the server must stay up and log no error
of its own. The first request that breaks this is minimised and printed.
"""

import argparse
import base64
import gzip
import http.client
import io
import json
import re
import string
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from data.console import quiet

_LONG_NUMBER = re.compile(r"/versions/\d{19}")
_EXAMPLES = 500  # between checks of the time
_MODELS = """
model_config_list {
  config { name: "ssd" base_path: "%(folder)s/ssd" model_platform: "tensorflow" }
  config {
    name: "echo" base_path: "%(folder)s/echo" model_platform: "tensorflow"
    model_version_policy { all {} } version_labels { key: "stable" value: 1 }
  }
}
"""
_INPUTS = ("floats", "doubles", "ints", "bytes", "longs", "bools", "strings")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving_fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=1)
    options = parser.parse_args()
    quiet()
    from benchmarks.serving_models import export_untrained, save_echo
    from benchmarks.serving_process import start_server

    picture = _encoded("JPEG")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_untrained("sample", 6, folder / "ssd" / "1", picture)
        save_echo(folder / "echo" / "1")
        (folder / "models.config").write_text(_MODELS % {"folder": folder})
        server = start_server(
            folder / "log.txt",
            f"--model_config_file={folder / 'models.config'}",
            "--max_body_bytes=1000000",
        )
        try:
            statuses = _fuzz(server, options.minutes * 60)
        finally:
            log = server.log.read_text(errors="replace")
            status = server.stop()
    if "Traceback" in log or status != 0:
        print(f"the server ended with status {status}:\n{log[-3000:]}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
    print(f"{sum(statuses.values()):,} requests, 0 crashes; {counts}")
    return 0


def _fuzz(server, seconds: float) -> Counter:
    """Sends requests until the time is up; returns the count of each status."""
    statuses = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def send(method: str, path: str, body: bytes, headers: dict) -> None:
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (http.client.HTTPException, OSError):
            connection.close()
            raise
        statuses[response.status] += 1
        assert response.status in (200, 503) or 400 <= response.status < 500, response.status
        # Like TensorFlow Serving, it answers a version that is not an int64 without a body.
        if answer or not _LONG_NUMBER.search(path):
            json.loads(answer.decode("utf-8", "surrogateescape"))
        assert server.process.poll() is None

    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        for name, requests in (("requests", _requests()), ("pictures", _picture_requests())):

            @seed(rounds)
            @settings(
                max_examples=_EXAMPLES,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            @given(requests)
            def check(request):
                send(*request)

            check()
            left = max(0, end - time.monotonic()) / 60
            print(f"round={rounds} {name} {dict(statuses)} minutes_left={left:.1f}", flush=True)
        rounds += 1
    return statuses


def _requests() -> st.SearchStrategy:
    """Method, path, body and headers: mostly valid, wrong in a place or two."""
    names = st.sampled_from(["echo", "ssd"]) | _path_text()
    parts = st.sampled_from(["", "/versions/1", "/versions/7", "/labels/stable"]) | st.builds(
        "/{}/{}".format, st.sampled_from(["labels", "versions"]), _path_text()
    )
    paths = st.builds("/v1/models/{}{}{}".format, names, parts, st.just(":predict") | _path_text())
    usual = st.just("/v1/models/echo:predict")
    methods = st.sampled_from(["POST"] * 6 + ["GET", "PUT", "DELETE"])
    headers = st.sampled_from([{}, {}, {"Content-Encoding": "gzip"}, {"Expect": "100-continue"}])
    requests = st.tuples(methods, usual | usual | paths, _bodies(), headers)
    return requests.map(_packed)


def _packed(request):
    """Compresses most of the bodies declared as gzip."""
    method, path, body, headers = request
    if "Content-Encoding" in headers and len(body) % 5:
        body = gzip.compress(body, 1)
    return method, path, body, headers


def _path_text() -> st.SearchStrategy:
    """Path segments that are not a version out of range, a label or a query."""
    letters = string.ascii_letters + "-_.~!$&'()*+,;=%:@[]"
    return st.text(letters, max_size=8) | st.integers(0, 10**17).map(str)


def _bodies() -> st.SearchStrategy:
    values = _values()
    rows = st.dictionaries(st.sampled_from(_INPUTS), values) | values
    documents = st.fixed_dictionaries(
        {},
        optional={
            "instances": st.lists(rows, max_size=4) | values,
            "inputs": st.dictionaries(st.sampled_from(_INPUTS), values) | values,
            "signature_name": st.sampled_from(["", "serving_default", *_INPUTS]) | st.text(),
            "more": values,
        },
    )
    whole = documents.map(lambda document: json.dumps(document).encode())
    pieces = st.sampled_from(
        [f'"{name}":' for name in ("instances", "inputs", "signature_name", "b64", *_INPUTS)]
        + ['"aGk="', "1", "-1e999", "1e308", "NaN", "-Infinity", "null", "true", "\\u0000", '"']
        + list("{}[]:,\n")
    )
    return (
        whole
        | _damaged(whole)
        | st.lists(pieces, max_size=40).map("".join).map(str.encode)
        | st.binary(max_size=60)
        | st.builds(lambda start, depth: start * depth, _deep(), st.integers(1, 50_000))
    )


def _deep() -> st.SearchStrategy:
    return st.sampled_from([b"[", b'{"instances":', b'{"a":[', b"[[],", b'["', b'{"b64":'])


def _values() -> st.SearchStrategy:
    """Valid and invalid values of a tensor."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 255, -129])
        | st.floats()
        | st.text(max_size=5)
        | st.builds(lambda text: {"b64": text}, st.text(max_size=9) | _base64())
    )
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
    )


def _base64() -> st.SearchStrategy:
    return st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode())


def _picture_requests() -> st.SearchStrategy:
    """Several pictures, some damaged, plain or inside a `tf.Example`."""
    whole = st.sampled_from([_encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")])
    picture = _damaged(whole) | whole
    pictures = st.lists(picture, min_size=1, max_size=3)
    examples = st.lists(picture.map(_example) | _damaged(picture.map(_example)), min_size=1)

    def request(signature, values):
        instances = [{"b64": base64.b64encode(value).decode()} for value in values]
        body = json.dumps({"signature_name": signature, "instances": instances}).encode()
        return "POST", "/v1/models/ssd:predict", body, {}

    return st.builds(request, st.just("serving_default"), pictures) | st.builds(
        request, st.just("serving_examples"), examples
    )


def _damaged(whole: st.SearchStrategy) -> st.SearchStrategy:
    """Changes some bytes, cuts out or doubles a part, or cuts off the end."""

    @st.composite
    def damaged(draw):
        data = bytearray(draw(whole))
        for _ in range(draw(st.integers(0, 4))):
            if data:
                place = draw(st.integers(0, min(len(data), 600) - 1) | _index(data))
                data[place] = draw(st.integers(0, 255) | st.sampled_from([0, 0x7F, 0x80, 0xFF]))
        start, end = sorted((draw(_index(data)), draw(_index(data))))
        how = draw(st.sampled_from(["", "", "cut", "double", "end"]))
        if how == "cut":
            del data[start:end]
        elif how == "double":
            data[start:start] = data[start:end]
        elif how == "end":
            del data[end:]
        return bytes(data)

    return damaged()


def _index(data) -> st.SearchStrategy:
    return st.integers(0, max(0, len(data) - 1))


def _encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def _example(picture: bytes) -> bytes:
    from tensorflow.core.example import example_pb2, feature_pb2

    feature = feature_pb2.Feature(bytes_list=feature_pb2.BytesList(value=[picture]))
    features = feature_pb2.Features(feature={"image/encoded": feature})
    return example_pb2.Example(features=features).SerializeToString()


if __name__ == "__main__":
    sys.exit(main())

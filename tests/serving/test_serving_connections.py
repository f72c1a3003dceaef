"""Connections to a running server: slow, cut off, half sent, or not HTTP at all."""

import contextlib
import http.client
import json
import socket
import struct
import time

import pytest


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
def test_bytes_that_are_not_http_get_400_in_json(server, data):
    head, _, body = _raw(server, data).partition(b"\r\n\r\n")
    assert b" 400 " in head.split(b"\r\n")[0]
    assert json.loads(body).keys() == {"error"}


@pytest.mark.parametrize("length, status", [(8000, 200), (8300, 400), (60_000, 400)])
def test_headers_over_8190_bytes_get_400_in_json(server, length, status):
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


def test_expect_100_continue(server):
    body = b'{"instances": [1]}'
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(5)
        connection.sendall(
            _HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert b'{"predictions":[3.0]}' in connection.recv(1000)


def test_interrupted_requests_free_their_places(server):
    for _ in range(10):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(_HEAD + b'Content-Length: 100\r\n\r\n{"instances')
        # Linger 0 resets the connection.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    time.sleep(0.2)
    assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


def test_half_sent_bodies_do_not_block_others(server):
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            connection = socket.create_connection(("127.0.0.1", server.port))
            stack.callback(connection.close)
            connection.sendall(_HEAD + b"Content-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


def test_bodies_that_are_too_large_together_are_refused(server):
    with contextlib.ExitStack() as stack:
        for _ in range(9):  # there is memory for 8 times --max_body_bytes
            connection = socket.create_connection(("127.0.0.1", server.port))
            stack.callback(connection.close)
            connection.sendall(_HEAD + b"Content-Length: 1999000\r\n\r\n" + b" " * 1_900_000)
        time.sleep(0.2)
        answer = server.request("POST", "/v1/models/adder:predict", b" " * 1_500_000)
        assert answer[0] == 503
    time.sleep(0.2)
    assert server.predict("adder", instances=[1]) == {"predictions": [3.0]}


@pytest.mark.slow
def test_a_body_that_never_arrives_times_out(server):
    answer = _raw(server, _HEAD + b"Content-Length: 100\r\n\r\n{", wait_s=10)
    assert b" 408 " in answer.split(b"\r\n")[0]


@pytest.mark.slow
def test_a_head_that_never_ends_times_out(server):
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


def test_nothing_unexpected_was_logged(server):
    assert "Traceback" not in server.log.read_text()
    assert server.process.poll() is None

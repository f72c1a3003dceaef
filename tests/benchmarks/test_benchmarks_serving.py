"""The client that the serving benchmark asks with: it must not take less than a whole answer."""

import socket
import threading

import pytest

from benchmarks.serving import _Client

_HEAD = b"HTTP/1.1 %d OK\r\nServer: x\r\nContent-Length: %d\r\nDate: y\r\n\r\n"


@pytest.fixture
def ask():
    """Asks a server that answers once, in the pieces given; returns what it was sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    received = []

    def serve(pieces):
        connection, _ = listener.accept()
        with connection:
            while not b"".join(received).endswith(b"the body"):
                received.append(connection.recv(1000))
            for piece in pieces:
                connection.sendall(piece)

    def ask(*pieces):
        server = threading.Thread(target=serve, args=(pieces,))
        server.start()
        try:
            _Client(listener.getsockname()[1], "/path", b"the body").ask()
        finally:
            server.join()
        return b"".join(received)

    yield ask
    listener.close()


def test_reads_all_of_an_answer_that_comes_in_pieces(ask):
    head = _HEAD % (200, 100_000)
    sent = ask(head[:20], head[20:], b"x" * 50_000, b"x" * 50_000)
    assert sent.startswith(b"POST /path HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 8\r\n" in sent


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([_HEAD % (503, 4), b"busy"], "the server answers HTTP/1.1 503"),
        ([_HEAD % (200, 4), b"more than 4"], "the server answers"),
        ([_HEAD % (200, 9), b"less"], "closed the connection"),
        ([], "closed the connection"),
    ],
)
def test_stops_at_any_other_answer(ask, pieces, message):
    with pytest.raises(SystemExit, match=message):
        ask(*pieces)

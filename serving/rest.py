"""TensorFlow Serving's REST API on aiohttp: predict, status and metadata, metrics, and the page."""

import asyncio
import inspect
import json
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from google.protobuf import json_format
from google.protobuf.message import Message

from serving.backend import Backend
from serving.json_request import read_document, read_inputs
from serving.json_response import write_response
from serving.status import StatusError, invalid

_FLAGS = re.IGNORECASE | re.ASCII
_API = re.compile(r"/v1/.*", _FLAGS | re.DOTALL)
_VERSION = r"(?:/versions/(?P<number>\d+)|/labels/(?P<label>[^/:]+))?"
_METHOD = r":(?P<what>classify|regress|predict)"
_POST = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}{_METHOD}", _FLAGS)
_GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<what>metadata))?", _FLAGS)
# The option that shows fields which are not set; protobuf 5 has renamed it.
_UNSET_TOO = {
    name: True
    for name in inspect.signature(json_format.MessageToDict).parameters
    if name in ("including_default_value_fields", "always_print_fields_with_no_presence")
}
_NOT_FOUND = "<!doctype html><title>404 Not Found</title><h1>Not Found</h1>\n"
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


class _Target(NamedTuple):
    """Which model a path names, which version of it, and what it wants of that."""

    name: str
    number: int | None
    label: str | None
    what: str | None

    @classmethod
    def of(cls, path: re.Match) -> "_Target":
        name, number, label, what = path.group("name", "number", "label", "what")
        if number is not None:
            digits = number.lstrip("0") or "0"
            number = int(digits) if len(digits) <= 19 else 2**63
            if number >= 2**63:
                raise invalid("")  # Answered without a body, as TensorFlow Serving does.
        name = unquote(name or "", errors="surrogateescape")
        label = label and unquote(label, errors="surrogateescape")
        return cls(name, number, label, what)


class RestApi:
    """Answers HTTP requests."""

    def __init__(
        self,
        backend: Backend,
        metrics_path: str | None = None,
        page: str | None = None,
        cors: bool = False,
    ):
        self._backend = backend
        self._manager = backend.manager
        self._limits = backend.limits
        self._metrics_path = metrics_path
        self._page = page
        self._headers = _CORS if cors else {}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """The answer to one request, whatever it is."""
        path = request.raw_path
        if path == self._metrics_path:
            return web.Response(text=self._backend.metrics.page())
        # Only a browser asks for HTML: for all others / is as unknown as to TensorFlow Serving.
        if path == "/" and self._page and "text/html" in request.headers.get("Accept", ""):
            return web.Response(text=self._page, content_type="text/html")
        if not _API.fullmatch(path):
            return web.Response(status=404, text=_NOT_FOUND, content_type="text/html")
        if request.method == "OPTIONS":
            accepted = "Origin" in request.headers
            return self._response(200 if accepted else 400, b"", content_type="text/html")
        try:
            return self._response(200, await self._answer(request, path))
        except StatusError as error:
            return self._error(error)

    async def _answer(self, request: web.BaseRequest, path: str) -> bytes:
        if request.method == "POST" and (match := _POST.fullmatch(path)):
            target = _Target.of(match)
            if target.what == "predict":
                with self._backend.timed(target.name, "predict", "REST"):
                    return await self._predict(request, target)
            if target.what in ("classify", "regress"):
                raise StatusError(
                    "UNIMPLEMENTED", f"{target.what} is not supported by this server: use predict"
                )
        if request.method == "GET" and (match := _GET.fullmatch(path)):
            name, number, label, what = _Target.of(match)
            if not name:
                raise invalid("Missing model name in request.")
            if what == "metadata":
                answer = _all_fields(self._backend.metadata(name, number, label))
                del answer["metadata"]["signature_def"]["@type"]  # of a packed message
                return _json(answer)
            return _json(_all_fields(self._backend.status(name, number)))
        raise invalid(f"Malformed request: {request.method} {path}")

    async def _predict(self, request: web.BaseRequest, target: _Target) -> bytes:
        """Gives the request a place, from its first byte until its run ends, answered or not."""
        places = self._backend.places
        if not places.acquire(blocking=False):
            raise StatusError("UNAVAILABLE", "Too many requests in the queue")
        answered = asyncio.get_running_loop().create_future()
        try:
            body = await self._read(request)
            compressed = "gzip" in request.headers.get("Content-Encoding", "")
            work = self._backend.executor.submit(self._run, answered, body, compressed, target)
        except BaseException:
            places.release()
            raise
        try:
            return await self._in_time(answered, "Deadline exceeded")
        finally:
            if work.cancel():  # It still waited for a thread, and now runs no more.
                places.release()

    async def _read(self, request: web.BaseRequest) -> bytes:
        if (request.content_length or 0) > self._limits.max_body_bytes:
            raise _too_large(f"over {self._limits.max_body_bytes} bytes")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if request.content.is_eof():
                body = request.content.read_nowait()
            else:
                receiving = asyncio.ensure_future(self._receive(request.content))
                body = await self._in_time(receiving, "Request body not received in time", 408)
        except (ConnectionError, HttpProcessingError) as error:
            raise invalid("Request body cut off") from error
        if len(body) > self._limits.max_body_bytes:
            raise _too_large(f"over {self._limits.max_body_bytes} bytes")
        return body

    async def _receive(self, content: StreamReader) -> bytes:
        """The rest of a body, or as much as is too much."""
        body = bytearray()
        async for chunk in content.iter_any():
            body += chunk
            if len(body) > self._limits.max_body_bytes:
                break
        return bytes(body)

    async def _in_time(
        self, future: asyncio.Future, message: str, http_status: int | None = None
    ) -> bytes:
        # As asyncio.wait_for, which takes the loop round once more for each request.
        late = asyncio.get_running_loop().call_later(self._limits.timeout_s, future.cancel)
        try:
            return await future
        except asyncio.CancelledError as error:
            if late.when() > asyncio.get_running_loop().time():
                raise
            message = f"{message} ({self._limits.timeout_s:g} s)"
            raise StatusError("DEADLINE_EXCEEDED", message, http_status) from error
        finally:
            late.cancel()

    def _run(self, answered: asyncio.Future, body: bytes, compressed: bool, target: _Target):
        """Finds the answer on a thread of the executor."""
        try:
            if compressed:
                body = _decompress(body, self._limits.max_body_bytes)
            answer = self._answer_of_model(body, target)
        except Exception as error:
            self._hand_over(answered, answered.set_exception, error)
        else:
            self._hand_over(answered, answered.set_result, answer)

    def _hand_over(self, answered: asyncio.Future, deliver: Callable, outcome: object) -> None:
        # As asyncio.wrap_future, at half the cost.
        self._backend.places.release()
        loop = answered.get_loop()
        loop.call_soon_threadsafe(lambda: answered.done() or deliver(outcome))

    def _answer_of_model(self, body: bytes, target: _Target) -> bytes:
        # Only then the model: a body that is not JSON is reported before a model that is not there.
        document, signature = read_document(body)
        with self._manager.use(target.name, target.number, target.label) as (number, servable):
            inputs, row_format = read_inputs(document, servable.input_types(signature))
            outputs = self._backend.run(target.name, number, servable, signature, inputs)
        return write_response(outputs, row_format)

    def _error(self, error: StatusError) -> web.Response:
        body = _json({"error": error.message}) if error.message else b""
        response = self._response(error.http_status, body)
        if error.http_status == 503:
            response.headers["Retry-After"] = "1"
        return response

    def _response(
        self, http_status: int, body: bytes, content_type: str = "application/json"
    ) -> web.Response:
        return web.Response(
            status=http_status, body=body, content_type=content_type, headers=self._headers
        )


def _decompress(body: bytes, limit: int) -> bytes:
    """Gunzips; what is not one gzip member counts as an empty body, as in TensorFlow Serving."""
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(body, limit)
    except zlib.error:
        return b""
    if stream.unconsumed_tail:
        raise _too_large(f"over {limit} bytes when decompressed")
    return plain if stream.eof and not stream.unused_data else b""


def _too_large(what: str) -> StatusError:
    return StatusError("RESOURCE_EXHAUSTED", f"Request body {what}", 413)


def _all_fields(message: Message) -> dict:
    """A message as JSON, with the fields that are not set."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True, **_UNSET_TOO)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")

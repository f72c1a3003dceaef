"""TensorFlow Serving's REST API on aiohttp: predict, status and metadata, metrics, and the page."""

import asyncio
import dataclasses
import json
import re
import zlib
from urllib.parse import unquote

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from google.protobuf import json_format
from google.protobuf.message import Message

from data.errors import DataError
from serving.model_server.backend import Backend, Claim
from serving.model_server.json_request import read_document, read_inputs
from serving.model_server.json_response import write_response
from serving.model_server.page import fill_page
from serving.model_server.status import StatusError, invalid
from serving.thresholds import ScoreThresholds, recommended

Model = tuple[str, int | None, str | None]  # name, version, label

_FLAGS = re.IGNORECASE | re.ASCII
# A URI; the group is the part after scheme and host.
_URI = re.compile(
    r"(?:[a-z][a-z\d+.-]*:)?(?://[^/?#]*)?((?:[\w.~!$&'()*+,;=:@/?#-]|%[\da-f]{2})*)", _FLAGS
)
_VERSION = r"(?:/versions/0*(?P<number>\d+)|/labels/(?P<label>[^/:]+))?"
_PATHS = {
    "GET": rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<what>metadata))?",
    "POST": rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<what>classify|regress|predict)",
}
# For the page only, outside the paths of TensorFlow Serving's API.
_PAGE_THRESHOLDS = re.compile(r"/page/models/(?P<name>[^/]+)/versions/(?P<number>\d{1,18})")
_ORIGIN = re.compile("https?://")
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


class RestApi:
    """Answers HTTP requests."""

    def __init__(self, backend: Backend, metrics_path: str | None, page: bool, cors: bool) -> None:
        self._backend = backend
        self._metrics_path = metrics_path
        self._page = page
        self._headers = _CORS if cors else {}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """The answer to any request."""
        if request.method in ("TRACE", "CONNECT"):
            return self._error(501, f"{request.method} is not supported")
        uri = _URI.fullmatch(request.raw_path)
        if not uri:
            return self._error(400, _unknown(request.method, request.raw_path))
        path = uri[1] or "/"
        if path == self._metrics_path:
            return web.Response(text=self._backend.metrics.page())
        # Only browsers ask for HTML: others get 404 for /, as from TensorFlow Serving.
        if path == "/" and self._page and "text/html" in request.headers.get("Accept", ""):
            page = fill_page(self._backend.manager.model_names)
            return web.Response(text=page, content_type="text/html")
        if self._page and request.method == "GET" and (version := _PAGE_THRESHOLDS.fullmatch(path)):
            return await self._thresholds(unquote(version["name"]), int(version["number"]))
        if not path.lower().startswith("/v1/"):
            return self._error(404, _unknown(request.method, path))
        if request.method == "OPTIONS":
            allowed = _ORIGIN.search(request.headers.get("Origin", ""))
            return self._response(200 if allowed else 400, b"", "text/html")
        try:
            return self._response(200, await self._answer(request, path))
        except StatusError as error:
            return self._error(error.http_status, error.message)

    async def _thresholds(self, model: str, version: int) -> web.Response:
        """The thresholds that a version's report recommends; without a report, the default."""
        try:
            folder = self._backend.manager.statuses(model, version)[0].folder
            found = await asyncio.to_thread(recommended, folder)
        except StatusError as error:
            return self._error(error.http_status, error.message)
        except DataError:  # not every model comes from this pipeline
            found = ScoreThresholds()
        return self._response(200, _json(dataclasses.asdict(found)))

    async def _answer(self, request: web.BaseRequest, path: str) -> bytes:
        match = re.fullmatch(_PATHS.get(request.method, "(?!)"), path, _FLAGS)
        if match:
            name, number, label, what = match.group("name", "number", "label", "what")
            if number and (len(number) > 19 or int(number) >= 2**63):
                raise invalid("")  # TensorFlow Serving answers without a body
            name, label = (unquote(part or "") for part in (name, label))
            model = name, int(number) if number else None, label or None
            if what == "predict":
                with self._backend.timed(name, what, "REST"):
                    return await self._predict(request, model)
            if what in ("classify", "regress"):
                message = f"{what} is not supported by this server: use predict"
                raise StatusError("UNIMPLEMENTED", message)
            if request.method == "GET":
                return self._about(model, what)
        raise invalid(_unknown(request.method, path))

    def _about(self, model: Model, what: str | None) -> bytes:
        if not model[0]:
            raise invalid("no model named: ask for /v1/models/NAME")
        if what == "metadata":
            answer = _all_fields(self._backend.metadata(*model))
            del answer["metadata"]["signature_def"]["@type"]  # json_format adds it
            return _json(answer)
        return _json(_all_fields(self._backend.status(*model[:2])))

    async def _predict(self, request: web.BaseRequest, model: Model) -> bytes:
        """Receives the body, then runs the whole request on a thread of the executor.

        The claim is released when the run ends, even if nobody waits for its answer any more.
        """
        timeout_s = self._backend.timeout_s
        claim = self._backend.claim()
        try:
            body = await asyncio.wait_for(self._read(request, claim), timeout_s)
            claim.take_place()
            compressed = "gzip" in request.headers.get("Content-Encoding", "")
            work = self._backend.executor.submit(self._run, claim, body, compressed, model)
        except BaseException as error:
            claim.release()
            if isinstance(error, asyncio.TimeoutError):
                raise self._too_late("the body did not arrive in time", 408) from error
            raise
        work.add_done_callback(lambda _: claim.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), timeout_s)
        except asyncio.TimeoutError as error:
            raise self._too_late("no answer in time") from error

    async def _read(self, request: web.BaseRequest, claim: Claim) -> bytes:
        too_large = _too_large(f"over {self._backend.max_body_bytes} bytes")
        if (request.content_length or 0) > self._backend.max_body_bytes:
            raise too_large
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        try:
            while chunk := await request.content.readany():
                claim.add_bytes(len(chunk))
                body += chunk
                if len(body) > self._backend.max_body_bytes:
                    raise too_large
        except (ConnectionError, HttpProcessingError) as error:
            raise invalid("the body was cut off") from error
        return bytes(body)

    def _too_late(self, message: str, http_status: int | None = None) -> StatusError:
        message = f"{message} ({self._backend.timeout_s:g} s)"
        return StatusError("DEADLINE_EXCEEDED", message, http_status)

    def _run(self, claim: Claim, body: bytes, compressed: bool, model: Model) -> bytes:
        if compressed:
            body = _decompress(body, self._backend.max_body_bytes)
            claim.add_bytes(len(body))
        # Parsed first, so that a body that is not JSON is reported before an unknown model.
        document, signature = read_document(body)
        with self._backend.manager.use(*model) as (number, servable):
            inputs, row_format = read_inputs(document, servable.input_types(signature))
            outputs = self._backend.run(model[0], number, servable, signature, inputs)
        return write_response(outputs, row_format)

    def _error(self, http_status: int, message: str) -> web.Response:
        return self._response(http_status, _json({"error": message}) if message else b"")

    def _response(
        self, http_status: int, body: bytes, content_type: str = "application/json"
    ) -> web.Response:
        headers = self._headers | ({"Retry-After": "1"} if http_status == 503 else {})
        return web.Response(
            status=http_status, body=body, content_type=content_type, headers=headers
        )


def _decompress(body: bytes, limit: int) -> bytes:
    """Gunzips; anything but one gzip member is an empty body, as in TensorFlow Serving."""
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(body, limit)
    except zlib.error:
        return b""
    if stream.unconsumed_tail:
        raise _too_large(f"over {limit} bytes when decompressed")
    return plain if stream.eof and not stream.unused_data else b""


def _too_large(what: str) -> StatusError:
    return StatusError("RESOURCE_EXHAUSTED", f"the body is {what}", 413)


def _unknown(method: str, path: str) -> str:
    shown = path.encode("utf-8", "backslashreplace").decode()
    return f"no such request: {method} {shown}"


def _all_fields(message: Message) -> dict:
    """A message as JSON, including unset fields, with the names in its proto."""
    # Positional: protobuf 5 renamed the option that includes unset fields.
    return json_format.MessageToDict(message, True, True)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()

"""HTTP connections on aiohttp: a time limit for request heads, and a graceful shutdown."""

import asyncio
import functools
import logging
import time
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from serving.model_server.rest import RestApi

# Bytes that are not HTTP are the client's fault: they get 400 and are not logged.
logging.getLogger("aiohttp.server").addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
)


class _Connection(web.RequestHandler):
    """Answers in JSON even if the bytes are not HTTP, or a header is too long for aiohttp."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs, or ends the connection
        reason = (message or "").strip().partition("\n")[0] or HTTPStatus(status).phrase
        response = web.json_response(
            {"error": f"not an acceptable request: {reason}"}, status=status
        )
        response.force_close()
        return response


class HttpServer(web.Server):
    """Passes requests to an API. Closes connections whose first request does not come in time."""

    def __init__(self, api: RestApi, timeout_s: float, max_body_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        limited = functools.partial(web.BaseRequest, loop=loop, client_max_size=max_body_bytes)
        self._event_loop = loop
        super().__init__(self._handle, request_factory=limited)
        self._api = api
        self._timeout_s = timeout_s
        # aiohttp limits the time between requests, but not before the first.
        self._awaited: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        self._in_flight = 0
        self._draining = False

    def __call__(self) -> web.RequestHandler:
        """The handler of a new connection."""
        return _Connection(
            self,
            loop=self._event_loop,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's annotation lacks None
        )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Closes the connection unless a request comes in time."""
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        self._awaited[handler] = loop.call_later(self._timeout_s, transport.close)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Forgets the connection."""
        self._stop_waiting(handler)
        super().connection_lost(handler, exc)

    async def drain(self, timeout_s: float) -> None:
        """Waits for requests in flight; their connections close after the answer."""
        self._draining = True
        deadline = time.monotonic() + timeout_s
        while self._in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._stop_waiting(request.protocol)
        self._in_flight += 1
        try:
            response = await self._api.answer(request)
            if self._draining:
                response.force_close()
            return response
        finally:
            self._in_flight -= 1

    def _stop_waiting(self, handler: web.RequestHandler) -> None:
        timer = self._awaited.pop(handler, None)
        if timer:
            timer.cancel()

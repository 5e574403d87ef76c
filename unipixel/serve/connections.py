"""One HTTP connection: what is no HTTP is told in the form of all errors, and nobody may hold one for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from unipixel.serve.errors import ApiError, describe_error
from unipixel.serve.responses import JsonResponse
from unipixel.serve.runtime import dump_json

MAX_CONNECTIONS = 1024
"""Connections that are answered; the others are told that there are too many, and closed."""
HEADER_TIMEOUT_S = 30.0
"""Seconds in which the headers of a request have to come."""


class Connection(H11Protocol):
    """A client's connection, as uvicorn reads it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.limit_concurrency = None  # uvicorn's own bound answers in another form
        self._inner, self.app = self.app, self._limit_connections
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        if self._header_timer is not None:
            self._header_timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """A request was answered; another may follow."""
        self._start_header_timer()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close."""
        sentence = "this is no HTTP request: its first line or headers are malformed, contradictory or too long"
        content = dump_json(describe_error(ApiError(400, sentence, code="bad_http")).body()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(content))),
            ("connection", "close"),
        ]
        head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _start_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._close_idle)

    def _close_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # not while a request is read or answered
            self.transport.close()

    async def _limit_connections(self, scope: Any, receive: Any, send: Any) -> None:
        if len(self.connections) <= MAX_CONNECTIONS:
            await self._inner(scope, receive, send)
            return
        sentence = "the server has as many connections as it may; try again later"
        told = describe_error(ApiError(503, sentence, code="too_many_connections", retry_after_s=5))
        await JsonResponse(told.body(), told.status, {**told.headers, "Connection": "close"})(scope, receive, send)

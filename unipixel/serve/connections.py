"""One HTTP connection: what is no HTTP is told in the form of all errors, and nobody may hold one for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from unipixel.serve.delivery import JSON
from unipixel.serve.faults import Refusal, fault
from unipixel.serve.runtime import to_json

MOST_CONNECTIONS = 1024
"""Connections that are answered; the others are told that there are too many, and closed."""
HEAD_S = 30.0
"""Seconds in which the headers of a request have to come."""


class Connection(H11Protocol):
    """A client's connection, as uvicorn reads it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.limit_concurrency = None  # uvicorn's own bound answers in another form
        self._inner, self.app = self.app, self._bounded
        self._hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        if self._hurry is not None:
            self._hurry.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """A request was answered; another may follow."""
        self._wait_for_head()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close."""
        sentence = "this is no HTTP request: its first line or headers are malformed, contradictory or too long"
        content = to_json(fault(Refusal(400, sentence, code="bad_http")).body()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(content))),
            ("connection", "close"),
        ]
        head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait_for_head(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
        self._hurry = self.loop.call_later(HEAD_S, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # not while a request is read or answered
            self.transport.close()

    async def _bounded(self, scope: Any, receive: Any, send: Any) -> None:
        if len(self.connections) <= MOST_CONNECTIONS:
            await self._inner(scope, receive, send)
            return
        sentence = "the server has as many connections as it may; try again later"
        told = fault(Refusal(503, sentence, code="too_many_connections", retry_after_s=5))
        await JSON(told.body(), told.status, {**told.headers, "Connection": "close"})(scope, receive, send)

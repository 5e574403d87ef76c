"""The server as a process: its connections, its start, and a stop that lets running answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from unipixel.engine.engine import Engine
from unipixel.serve.app import create_app
from unipixel.serve.errors import ApiError, retry_after
from unipixel.serve.responses import build_error_response
from unipixel.serve.runtime import limit_heaps
from unipixel.serve.settings import ServeSettings

MAX_CONNECTIONS = 1024
"""Connections that are served; further ones get an error, and are closed."""
HEADER_TIMEOUT_S = 30.0
"""Seconds in which the headers of a request have to arrive."""


class Connection(H11Protocol):
    """A client's connection: malformed HTTP is answered in the form of all errors, and idle connections are closed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.limit_concurrency = None  # uvicorn's own limit answers in another form
        self._inner, self.app = self.app, self._limit_connections
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        if self._header_timer is not None:
            self._header_timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """A request has been answered; another may follow."""
        self._start_header_timer()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and close the connection."""
        message = "this is no HTTP request: its first line or headers are malformed, contradictory or too long"
        content = bytes(build_error_response(ApiError(400, message, code="bad_http")).body)
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
        message = "the server has as many connections as it may; try again later"
        headers = {**retry_after(5), "Connection": "close"}
        error = ApiError(503, message, code="too_many_connections", headers=headers)
        await build_error_response(error)(scope, receive, send)


class Server(uvicorn.Server):
    """Uvicorn, which lets the model finish before connections are closed.

    Args:
        on_listening: called with the address once the server listens.
    """

    def __init__(
        self, engine: Engine, settings: ServeSettings, on_listening: Callable[[str], None] = lambda _: None
    ) -> None:
        app = create_app(engine, settings)
        self.runtime, self.sessions = app.state.runtime, app.state.sessions
        self._on_listening = on_listening
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            http=Connection,
            ws="none",
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        super().__init__(config)

    @property
    def address(self) -> str:
        """Where it listens, as a URL; once it has started."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started and self.servers:
            self._on_listening(self.address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: new requests are refused at once, running answers finish or end with an error."""
        stop = asyncio.ensure_future(self.runtime.stop())
        while not stop.done() and not self.force_exit:  # a second signal waits for nothing
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def run(engine: Engine, settings: ServeSettings, on_listening: Callable[[str], None] = lambda _: None) -> None:
    """Serve until a signal says to stop.

    Args:
        on_listening: called with the address once the server listens.

    Raises:
        OSError: it cannot listen there.
    """
    limit_heaps()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=settings.log_level.upper())
    logging.getLogger("unipixel").setLevel(settings.log_level.upper())
    server = Server(engine, settings, on_listening)
    with contextlib.suppress(KeyboardInterrupt):  # raised again when all is over
        server.run()
    if not server.started:
        raise OSError(f"cannot listen on {settings.host} port {settings.port}")

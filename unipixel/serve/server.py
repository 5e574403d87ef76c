"""The server as a process: it listens, and ends without breaking off what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

import uvicorn

from unipixel.engine.engine import Engine
from unipixel.serve.app import create_app
from unipixel.serve.connections import Connection
from unipixel.serve.settings import ServeSettings


class Server(uvicorn.Server):
    """Uvicorn, which lets the model finish before connections are closed."""

    def __init__(
        self, engine: Engine, settings: ServeSettings, on_listening: Callable[[str], None] = lambda _: None
    ) -> None:
        app = create_app(engine, settings)
        self.runtime = app.state.runtime
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
        """End: new requests are refused at once, running answers finish or are told that they cannot."""
        stopping = asyncio.ensure_future(self.runtime.stop())
        while not stopping.done() and not self.force_exit:  # a second signal waits for nothing
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def run(engine: Engine, settings: ServeSettings, on_listening: Callable[[str], None] = lambda _: None) -> None:
    """Serve until a signal says to stop.

    Args:
        told: called with the address when the server listens.

    Raises:
        OSError: it cannot listen there.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    server = Server(engine, settings, on_listening)
    with contextlib.suppress(KeyboardInterrupt):  # raised again when all is over
        server.run()
    if not server.started:
        raise OSError(f"cannot listen on {settings.host} port {settings.port}")

"""What every request passes first: is it allowed to ask, from where, and how much does it bring."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from unipixel.serve.counters import Counters
from unipixel.serve.delivery import JSON
from unipixel.serve.faults import Refusal, fault
from unipixel.serve.settings import ServeSettings, is_loopback

ASGI = Callable[[Any, Any, Any], Awaitable[None]]
UPLOAD = "/v1/sessions/upload"
FORM_BYTES = 1 << 20
"""What the form around an uploaded file may add."""
SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


def is_guarded(path: str) -> bool:
    """Whether a path needs a key: everything but the page, the documentation and the health check."""
    return path.startswith("/v1/") or path in ("/v1", "/metrics")


class Guard:
    """Checks keys, hosts and origins, and bounds the body. Sets ``request.state.owner``.

    Without keys the server listens on loopback only; then web pages of others must be kept out, which could otherwise
    ask through the user's browser: requests from other origins and under other host names are refused.
    """

    def __init__(self, app: ASGI, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            scope.setdefault("state", {})["owner"] = self._owner(scope["path"], headers)
            if not self._keys:
                self._check_origin(headers)
            most = self._most(scope["path"])
            announced = headers.get("content-length", "0")
            if not announced.isdecimal() or int(announced) > most:
                raise self._too_large(most)
        except Refusal as refusal:
            told = fault(refusal)
            await JSON(told.body(), told.status, told.headers)(scope, receive, send)
            return
        await self._app(scope, self._counted(receive, most), send)

    def _owner(self, path: str, headers: Headers) -> str:
        """Whose key it is: what sessions belong to. Empty without keys."""
        if not self._keys or not is_guarded(path):
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        # all are compared, so that the time tells nothing
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        if not key or not any(matches):
            refusal = Refusal(
                401,
                "the API key is missing or wrong; send Authorization: Bearer KEY or X-API-Key: KEY",
                code="invalid_api_key",
            )
            refusal.headers["WWW-Authenticate"] = "Bearer"
            raise refusal
        return digest.hex()

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if not is_loopback(name):
            sentence = f"the host {host[:80]!r} is not this machine; a server for others needs API keys"
            raise Refusal(403, sentence, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin not in self._settings.cors_origins and urlsplit(origin).netloc != host:
            sentence = f"the origin {origin[:80]!r} may not call this server; allow it with --cors-origin"
            raise Refusal(403, sentence, code="wrong_origin")

    def _most(self, path: str) -> int:
        if path.rstrip("/") == UPLOAD:
            return self._settings.max_upload_bytes + FORM_BYTES
        return self._settings.max_body_bytes

    def _counted(self, receive: Any, most: int) -> Any:
        count = 0

        async def counted() -> Any:
            nonlocal count
            message = await receive()
            if message["type"] == "http.request":
                count += len(message.get("body", b""))
                if count > most:
                    refusal = self._too_large(most)
                    raise HTTPException(413, refusal.sentence)  # the one kind that body parsers let through
            return message

        return counted

    @staticmethod
    def _too_large(most: int) -> Refusal:
        return Refusal(413, f"the request is larger than the {most} bytes allowed here", code="too_large")


class Counting:
    """Counts requests, puts the headers on that every response should have, and tells what nobody foresaw."""

    def __init__(self, app: ASGI, counters: Counters) -> None:
        self._app, self._counters = app, counters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        since, status, begun = time.monotonic(), 500, False

        async def noted(message: Any) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message = {**message, "headers": [*message["headers"], *SAFE_HEADERS]}
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if begun:
                raise
            # told here, because the framework would raise it again and close the connection
            told = fault(error)
            await JSON(told.body(), told.status, told.headers)(scope, receive, noted)
        finally:
            # the pattern and not the path, of which there is no end
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in ("GET", "POST", "PATCH", "DELETE", "OPTIONS") else "other"
            self._counters.request(method, route, status, time.monotonic() - since)

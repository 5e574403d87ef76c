"""What every request passes first: is it allowed to ask, from where, and how much does it bring."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from unipixel.serve.counters import Counters
from unipixel.serve.delivery import JSON
from unipixel.serve.faults import Refusal, fault
from unipixel.serve.runtime import Held
from unipixel.serve.settings import ServeSettings, is_loopback

ASGI = Callable[[Any, Any, Any], Awaitable[None]]
UPLOAD = "/v1/sessions/upload"
LABEL_STUDIO = ("/predict", "/setup", "/validate", "/versions", "/webhook")
"""What Label Studio calls, besides the health check."""
LONGEST_LENGTH = 20
"""Digits of a content length that are read as a number."""
FORM_BYTES = 1 << 20
"""What the form around an uploaded file may add."""
SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


def is_guarded(path: str) -> bool:
    """Whether a path needs a key: everything but the page, the documentation and the health check."""
    return path.startswith("/v1/") or path in ("/v1", "/metrics", *LABEL_STUDIO)


class Guard:
    """Checks keys, hosts and origins, and bounds the body. Sets ``request.state.owner``.

    Without keys the server listens on loopback only; then web pages of others must be kept out, which could otherwise
    ask through the user's browser: requests from other origins and under other host names are refused.
    """

    def __init__(self, app: ASGI, settings: ServeSettings, held: Held) -> None:
        self._app, self._settings, self._held = app, settings, held
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
            if len(announced) > LONGEST_LENGTH or not announced.isdecimal() or int(announced) > most:
                raise self._too_large(most)
        except Refusal as refusal:
            told = fault(refusal)
            await JSON(told.body(), told.status, told.headers)(scope, receive, send)
            return
        # an upload goes to a file as it comes; everything else is held in memory
        body = Body(receive, most, None if scope["path"].rstrip("/") == UPLOAD else self._held)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.release()

    def _owner(self, path: str, headers: Headers) -> str:
        """Whose key it is: what sessions belong to. Empty without keys."""
        if not self._keys or not is_guarded(path):
            return ""
        key = _key(headers)
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
        if not is_loopback(_parts(f"//{host}").hostname or ""):
            sentence = f"the host {host[:80]!r} is not this machine; a server for others needs API keys"
            raise Refusal(403, sentence, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin not in self._settings.cors_origins and _parts(origin).netloc != host:
            sentence = f"the origin {origin[:80]!r} may not call this server; allow it with --cors-origin"
            raise Refusal(403, sentence, code="wrong_origin")

    def _most(self, path: str) -> int:
        if path.rstrip("/") == UPLOAD:
            return self._settings.max_upload_bytes + FORM_BYTES
        return self._settings.max_body_bytes

    @staticmethod
    def _too_large(most: int) -> Refusal:
        return Refusal(413, _too_large(most), code="too_large")


class Body:
    """The body of one request as it comes in, counted by itself and together with those of all others.

    Args:
        receive: of the request.
        most: its bytes.
        held: where its bytes are added up for as long as it is answered; None: nowhere.
    """

    def __init__(self, receive: Any, most: int, held: Held | None) -> None:
        self._receive, self._most, self._held = receive, most, held
        self._count = 0

    async def receive(self) -> Any:
        """The next part of it.

        Raises:
            HTTPException: it is too large; the one kind of error that body parsers let through.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._count += size
            if self._held is not None:
                self._held.count += size
            if self._count > self._most:
                raise HTTPException(413, _too_large(self._most))
            if self._held is not None and self._held.count > self._held.most:
                sentence = f"requests of {self._held.most} bytes are under way, as many as are allowed; try again soon"
                raise HTTPException(429, sentence, headers={"Retry-After": "5"})
        return message

    def release(self) -> None:
        """The request was answered."""
        if self._held is not None:
            self._held.count -= self._count


def _too_large(most: int) -> str:
    return f"the request is larger than the {most} bytes allowed here"


def _key(headers: Headers) -> str:
    """The key that a request carries: as OpenAI's clients send it, by its own header, or as Label Studio's password."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return headers.get("x-api-key", "")


def _parts(address: str) -> SplitResult:
    """The parts of an address, which are empty where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


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

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

from unipixel.serve.errors import ApiError, describe_error
from unipixel.serve.metrics import Counters
from unipixel.serve.responses import JsonResponse
from unipixel.serve.runtime import ByteBudget
from unipixel.serve.settings import ServeSettings, is_loopback

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
UPLOAD_PATH = "/v1/sessions/upload"
LABEL_STUDIO_PATHS = ("/predict", "/setup", "/validate", "/versions", "/webhook")
"""What Label Studio calls, besides the health check."""
MAX_LENGTH_DIGITS = 20
"""Digits of a content length that are read as a number."""
FORM_BYTES = 1 << 20
"""What the form around an uploaded file may add."""
SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


def is_guarded(path: str) -> bool:
    """Whether a path needs a key: everything but the page, the documentation and the health check."""
    return path.startswith("/v1/") or path in ("/v1", "/metrics", *LABEL_STUDIO_PATHS)


class Guard:
    """Checks keys, hosts and origins, and bounds the body. Sets ``request.state.owner``.

    Without keys the server listens on loopback only; then web pages of others must be kept out, which could otherwise
    ask through the user's browser: requests from other origins and under other host names are refused.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, budget: ByteBudget) -> None:
        self._app, self._settings, self._budget = app, settings, budget
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            scope.setdefault("state", {})["owner"] = self._find_owner(scope["path"], headers)
            if not self._keys:
                self._check_origin(headers)
            most = self._get_max_bytes(scope["path"])
            announced = headers.get("content-length", "0")
            if len(announced) > MAX_LENGTH_DIGITS or not announced.isdecimal() or int(announced) > most:
                raise self._too_large(most)
        except ApiError as refusal:
            told = describe_error(refusal)
            await JsonResponse(told.body(), told.status, told.headers)(scope, receive, send)
            return
        # an upload goes to a file as it comes; everything else is held in memory
        body = RequestBody(receive, most, None if scope["path"].rstrip("/") == UPLOAD_PATH else self._budget)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.release()

    def _find_owner(self, path: str, headers: Headers) -> str:
        """Whose key it is: what sessions belong to. Empty without keys."""
        if not self._keys or not is_guarded(path):
            return ""
        key = _read_key(headers)
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        # all are compared, so that the time tells nothing
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        if not key or not any(matches):
            refusal = ApiError(
                401,
                "the API key is missing or wrong; send Authorization: Bearer KEY or X-API-Key: KEY",
                code="invalid_api_key",
            )
            refusal.headers["WWW-Authenticate"] = "Bearer"
            raise refusal
        return digest.hex()

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if not is_loopback(_split_address(f"//{host}").hostname or ""):
            sentence = f"the host {host[:80]!r} is not this machine; a server for others needs API keys"
            raise ApiError(403, sentence, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin not in self._settings.cors_origins and _split_address(origin).netloc != host:
            sentence = f"the origin {origin[:80]!r} may not call this server; allow it with --cors-origin"
            raise ApiError(403, sentence, code="wrong_origin")

    def _get_max_bytes(self, path: str) -> int:
        if path.rstrip("/") == UPLOAD_PATH:
            return self._settings.max_upload_bytes + FORM_BYTES
        return self._settings.max_body_bytes

    @staticmethod
    def _too_large(max_bytes: int) -> ApiError:
        return ApiError(413, _too_large(max_bytes), code="too_large")


class RequestBody:
    """The body of one request as it comes in, counted by itself and together with those of all others.

    Args:
        receive: of the request.
        most: its bytes.
        held: where its bytes are added up for as long as it is answered; None: nowhere.
    """

    def __init__(self, receive: Any, max_bytes: int, budget: ByteBudget | None) -> None:
        self._receive, self._max_bytes, self._held = receive, max_bytes, budget
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
                self._held.used += size
            if self._count > self._max_bytes:
                raise HTTPException(413, _too_large(self._max_bytes))
            if self._held is not None and self._held.used > self._held.limit:
                sentence = f"requests of {self._held.limit} bytes are under way, as many as are allowed; try again soon"
                raise HTTPException(429, sentence, headers={"Retry-After": "5"})
        return message

    def release(self) -> None:
        """The request was answered."""
        if self._held is not None:
            self._held.used -= self._count


def _too_large(max_bytes: int) -> str:
    return f"the request is larger than the {max_bytes} bytes allowed here"


def _read_key(headers: Headers) -> str:
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


def _split_address(address: str) -> SplitResult:
    """The parts of an address, which are empty where it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


class MetricsMiddleware:
    """Counts requests, puts the headers on that every response should have, and tells what nobody foresaw."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app, self._counters = app, counters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        since, status, begun = time.monotonic(), 500, False

        async def send_and_note(message: Any) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message = {**message, "headers": [*message["headers"], *SAFE_HEADERS]}
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if begun:
                raise
            # told here, because the framework would raise it again and close the connection
            told = describe_error(error)
            await JsonResponse(told.body(), told.status, told.headers)(scope, receive, send_and_note)
        finally:
            # the pattern and not the path, of which there is no end
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in ("GET", "POST", "PATCH", "DELETE", "OPTIONS") else "other"
            self._counters.count_request(method, route, status, time.monotonic() - since)

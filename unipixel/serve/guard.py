"""What every request passes first: may it ask, from where, and how much does it bring."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from unipixel.serve.errors import ApiError, retry_after
from unipixel.serve.responses import build_error_response
from unipixel.serve.settings import ServeSettings, is_loopback

UPLOAD_PATH = "/v1/sessions/upload"
LABEL_STUDIO_PATHS = ("/predict", "/setup", "/validate", "/versions", "/webhook")
"""What Label Studio calls, besides the health check."""
MAX_LENGTH_DIGITS = 20
"""Digits of a content length that are read as a number."""
FORM_BYTES = 1 << 20
"""What the form around an uploaded file may add."""


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
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            scope.setdefault("state", {})["owner"] = self._find_owner(scope["path"], headers)
            if not self._keys:
                self._check_origin(scope["path"], headers)
            max_bytes = self._get_max_bytes(scope["path"])
            announced = headers.get("content-length", "0")
            if len(announced) > MAX_LENGTH_DIGITS or not announced.isdecimal() or int(announced) > max_bytes:
                raise ApiError(413, _describe_excess(max_bytes), code="too_large")
        except ApiError as error:
            await build_error_response(error)(scope, receive, send)
            return
        # an upload goes to a file as it comes; everything else is held in memory
        body = RequestBody(receive, max_bytes, None if scope["path"].rstrip("/") == UPLOAD_PATH else self._budget)
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
            raise ApiError(
                401,
                "the API key is missing or wrong; send Authorization: Bearer KEY or X-API-Key: KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return digest.hex()

    def _check_origin(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not is_loopback(_split_address(f"//{host}").hostname or ""):
            message = f"the host {host[:80]!r} is not this machine; a server for others needs API keys"
            raise ApiError(403, message, code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin not in self._settings.cors_origins and _split_address(origin).netloc != host:
            message = f"the origin {origin[:80]!r} may not call this server; allow it with --cors-origin"
            raise ApiError(403, message, code="wrong_origin")
        # pictures and scripts that a page embeds name no origin, but browsers say where the page is from
        if (
            origin is None
            and is_guarded(path)
            and headers.get("sec-fetch-site") in ("cross-site", "same-site")
            and not self._settings.cors_origins
        ):
            message = "pages of other origins may not call this server; allow them with --cors-origin"
            raise ApiError(403, message, code="wrong_origin")

    def _get_max_bytes(self, path: str) -> int:
        if path.rstrip("/") == UPLOAD_PATH:
            return self._settings.max_upload_bytes + FORM_BYTES
        return self._settings.max_body_bytes


class ByteBudget:
    """Bytes of requests that are in memory, those of all clients together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0


class RequestBody:
    """The body of one request as it comes in, counted by itself and together with those of all others.

    Args:
        receive: of the request.
        max_bytes: of the request.
        budget: where its bytes count for as long as it is answered; None: nowhere.
    """

    def __init__(self, receive: Any, max_bytes: int, budget: ByteBudget | None) -> None:
        self._receive, self._max_bytes, self._budget = receive, max_bytes, budget
        self._count = 0

    async def receive(self) -> Any:
        """The next message.

        Raises:
            HTTPException: it is too large; the one kind of error that body parsers let through.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._count += size
            if self._budget is not None:
                self._budget.used += size
            if self._count > self._max_bytes:
                raise HTTPException(413, _describe_excess(self._max_bytes))
            if self._budget is not None and self._budget.used > self._budget.limit:
                limit = self._budget.limit
                error = f"requests of {limit} bytes are under way, as many as are allowed; try again soon"
                raise HTTPException(429, error, headers=retry_after(5))
        return message

    def release(self) -> None:
        """Give the bytes back once the request is answered."""
        if self._budget is not None:
            self._budget.used -= self._count


def _describe_excess(max_bytes: int) -> str:
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
    """The parts of an address, empty if it is malformed."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")

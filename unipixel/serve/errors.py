"""Every error as an HTTP response, in one place: a status, a type, a code, and one sentence.

The body has OpenAI's form, ``{"error": {"message", "type", "param", "code"}}``, on all routes.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from unipixel.errors import CheckpointError, MediaError, PromptError, StalePromptError, UnipixelError
from unipixel.serve.schemas import ErrorOut

LOG = logging.getLogger("unipixel.serve")
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that is being answered, by which its lines in the log are found."""
CLIENT_CLOSED = 499
"""The client has left; nobody reads the answer."""
MAX_MESSAGE = 500
"""Characters of a message."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FILES = {errno.EMFILE, errno.ENFILE}
_FRAMEWORK_MESSAGES = {
    "Not Found": "there is nothing at this address; /openapi.json says what there is",
    "Method Not Allowed": "this address does not take this method; /openapi.json says which it takes",
}
"""The framework's messages as whole sentences."""
_OWN_NAMES = re.compile(r"body|query|path|header|str|[a-z-]+\[.*\]|[A-Z]\w*")
"""Parts of an error's place that are not fields of the request but our names for what may stand there."""
_PACKAGE_ERRORS = (
    (MediaError, 400, "bad_media"),
    (StalePromptError, 409, "too_old"),
    (PromptError, 400, "bad_prompt"),
    (CheckpointError, 409, "other_model"),
    (UnipixelError, 400, "bad_request"),
)
_FILE = re.compile(r"(?:/|[A-Za-z]:\\)[^\s'\"]*[/\\]sessions[/\\][\w-]+[/\\][\w.-]+")


class ApiError(Exception):
    """An error as a client reads it.

    Args:
        status: of HTTP.
        message: one sentence: what was wrong, its value, and what would be right.
        code: a short name for programs.
        param: the field that was wrong.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        named = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        return named.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> ErrorOut:
        return ErrorOut(error={"message": self.message, "type": self.type, "param": self.param, "code": self.code})


class JobCancelled(ApiError):
    """Work that was stopped: by its user, by a client that left, or because the server shuts down."""


def retry_after(seconds: int) -> dict[str, str]:
    """The header that says when to try again."""
    return {"Retry-After": str(seconds)}


def describe_error(error: BaseException) -> ApiError:
    """An error as clients read it; an unforeseen one is logged with its trace and described without details."""
    found = _translate_error(error)
    if found is None:
        LOG.error("request id=%s failed with %s", REQUEST_ID.get(), type(error).__name__, exc_info=error)
        return ApiError(500, "the server failed on this request; the reason is in its log", code="internal_error")
    if found.status >= 500:
        LOG.warning("request id=%s: %d %s: %s", REQUEST_ID.get(), found.status, found.code, error)
    return ApiError(
        found.status, clean_message(found.message), code=found.code, param=found.param, headers=found.headers
    )


def clean_message(message: str) -> str:
    """A message without line breaks, without the server's own file names, and not too long."""
    message = _FILE.sub("its file", " ".join(message.split()))
    message = message.encode("utf-8", errors="replace").decode("utf-8")
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."


def _translate_error(error: BaseException) -> ApiError | None:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _translate_validation_error(error)
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, OSError) and (found := _translate_os_error(error.__cause__)):
            return found  # while the body was read, of which the framework says that it is malformed
        message = _FRAMEWORK_MESSAGES.get(str(error.detail), str(error.detail))
        if "parsing the body" in message:  # the framework's words, whatever it was
            message = "the body cannot be read; it must be valid JSON, or a multipart form where a file is uploaded"
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 429: "queue_full"}
        code = codes.get(error.status_code, "bad_request")
        return ApiError(error.status_code, message, code=code, headers=error.headers)
    for kind, status, code in _PACKAGE_ERRORS:
        if isinstance(error, kind):
            return ApiError(status, str(error), code=code)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        message = "there was not enough memory for this request; try a smaller one"
        return ApiError(503, message, code="out_of_memory")
    return _translate_os_error(error) if isinstance(error, OSError) else None


def _translate_os_error(error: OSError) -> ApiError | None:
    if error.errno in _NO_SPACE:
        return ApiError(507, "the server's disk is full; close sessions or try again later", code="no_space")
    if error.errno in _NO_FILES:
        message = "the server has as many files and connections open as it may; try again later"
        return ApiError(503, message, code="too_many_files", headers=retry_after(5))
    return None


def _translate_validation_error(error: RequestValidationError) -> ApiError:
    # of the alternatives that a field allows, the error of the one that was matched furthest
    first: dict[str, Any] = max(error.errors(), key=lambda one: len(one.get("loc", ())), default={})
    place = [str(part) for part in first.get("loc", ()) if not _OWN_NAMES.fullmatch(str(part))]
    kind, context = first.get("type"), first.get("ctx", {})
    if kind == "json_invalid":
        why, character = context.get("error", "malformed"), first.get("loc", [0])[-1]
        return ApiError(400, f"the body is not valid JSON ({why} at character {character})", code="bad_json")
    where = ".".join(place)[:120]
    field = str(context.get("discriminator", "")).strip("'")
    if kind == "union_tag_invalid":
        tag, known = str(context.get("tag"))[:40], context.get("expected_tags")
        message = f"{where}: the {field} is {tag!r}; it must be one of {known}"
    elif kind == "union_tag_not_found":
        message = f"{where}: the field {field!r} is missing, which says what it is"
    elif kind == "missing":
        message = f"{where or 'the body'} is missing"
    else:
        given = first.get("input")
        value = f", not {given!r}" if isinstance(given, str | int | float | None) and len(repr(given)) <= 60 else ""
        message = f"{where or 'the body'}: {first.get('msg', 'it is not valid')}{value}"
    return ApiError(400, message, code="bad_request", param=where or None)

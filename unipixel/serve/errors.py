"""Every error as an HTTP answer, in one place: a status, a kind, a code, and one sentence.

The body has OpenAI's form, ``{"error": {"message", "type", "param", "code"}}``, on all routes.
"""

from __future__ import annotations

import errno
import logging
import re
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from unipixel.errors import CheckpointError, MediaError, PromptError, UnipixelError

LOG = logging.getLogger("unipixel.serve")
CLIENT_CLOSED = 499
"""The client has left; nobody reads the answer."""
MAX_MESSAGE = 500
"""Characters of a sentence."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FILES = {errno.EMFILE, errno.ENFILE}
_PLAIN = {
    "Not Found": "there is nothing at this address; /openapi.json says what there is",
    "Method Not Allowed": "this address does not take this method; /openapi.json says which it takes",
}
"""The framework's words, as sentences."""
_OUR_WORDS = re.compile(r"body|query|path|header|str|[a-z-]+\[.*\]|[A-Z]\w*")
"""Parts of a place in a request that are no fields of it, but our names for what may stand there."""
_FILE = re.compile(r"(?:/|[A-Za-z]:\\)[^\s'\"]*[/\\]sessions[/\\][\w-]+[/\\][\w.-]+")


class ApiError(Exception):
    """A request that is refused on purpose.

    Args:
        status: of HTTP.
        sentence: what was wrong, its value, and what would be right.
        code: a short name for programs.
        param: the field that was wrong.
        retry_after_s: when to try again.
    """

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


class JobCancelled(ApiError):
    """Work that was stopped: by its user, by a client that left, or because the server ends."""


@dataclass(frozen=True)
class ErrorResponse:
    """An error as it is told."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """OpenAI's ``type``."""
        named = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        return named.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The JSON that is sent."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def describe_error(error: BaseException) -> ErrorResponse:
    """What to tell about an error; one that was not foreseen is logged with its trace and told without details."""
    found = _translate_error(error)
    if found is None:
        LOG.error("a request failed with %s", type(error).__name__, exc_info=error)
        return ErrorResponse(500, "internal_error", "the server failed on this request; the reason is in its log")
    if found.status >= 500:
        LOG.warning("%d %s: %s", found.status, found.code, error)
    return ErrorResponse(found.status, found.code, clean_message(found.message), found.param, found.headers)


def clean_message(message: str) -> str:
    """A sentence without line breaks, without the server's own file names, and not too long."""
    message = _FILE.sub("its file", " ".join(message.split()))
    message = message.encode("utf-8", errors="replace").decode("utf-8")
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."


def _translate_error(error: BaseException) -> ErrorResponse | None:
    if isinstance(error, ApiError):
        return ErrorResponse(error.status, error.code, error.message, error.param, error.headers)
    if isinstance(error, RequestValidationError):
        return _translate_validation_error(error)
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, OSError) and (found := _translate_os_error(error.__cause__)):
            return found  # while the body was read, of which the framework says that it is malformed
        headers = dict(error.headers or {})
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 429: "queue_full"}
        sentence = _PLAIN.get(str(error.detail), str(error.detail))
        if "parsing the body" in sentence:  # the framework's words, for whatever it was
            sentence = "the body cannot be read; it must be valid JSON, or a multipart form where a file is uploaded"
        code = codes.get(error.status_code, "bad_request")
        return ErrorResponse(error.status_code, code, sentence, None, headers)
    if isinstance(error, UnipixelError):
        return _translate_unipixel_error(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ErrorResponse(503, "out_of_memory", "there was not enough memory for this request; try a smaller one")
    return _translate_os_error(error) if isinstance(error, OSError) else None


def _translate_os_error(error: OSError) -> ErrorResponse | None:
    if error.errno in _NO_SPACE:
        return ErrorResponse(507, "no_space", "the server's disk is full; close sessions or try again later")
    if error.errno in _NO_FILES:
        told = "the server has as many files and connections open as it may; try again later"
        return ErrorResponse(503, "too_many_files", told, headers={"Retry-After": "5"})
    return None


def _translate_unipixel_error(error: UnipixelError) -> ErrorResponse:
    if isinstance(error, MediaError):
        return ErrorResponse(400, "bad_media", str(error))
    if isinstance(error, PromptError):
        return ErrorResponse(400, "bad_prompt", str(error))
    if isinstance(error, CheckpointError):
        return ErrorResponse(409, "other_model", str(error))
    return ErrorResponse(400, "bad_request", str(error))


def _translate_validation_error(error: RequestValidationError) -> ErrorResponse:
    # of the ways in which a field could have been right, the one that was come closest to
    first: dict[str, Any] = max(error.errors(), key=lambda one: len(one.get("loc", ())), default={})
    place = [str(part) for part in first.get("loc", ()) if not _OUR_WORDS.fullmatch(str(part))]
    if first.get("type") == "json_invalid":
        why = first.get("ctx", {}).get("error", "malformed")
        return ErrorResponse(
            400, "bad_json", f"the body is not valid JSON ({why} at character {first.get('loc', [0])[-1]})"
        )
    where = ".".join(place)[:120]
    context = first.get("ctx", {})
    if first.get("type") == "union_tag_invalid":
        field = str(context.get("discriminator", "")).strip("'")
        tag, known = str(context.get("tag"))[:40], context.get("expected_tags")
        return ErrorResponse(
            400, "bad_request", f"{where}: the {field} is {tag!r}; it must be one of {known}", where or None
        )
    if first.get("type") == "union_tag_not_found":
        field = str(context.get("discriminator", "")).strip("'")
        return ErrorResponse(
            400, "bad_request", f"{where}: the field {field!r} is missing, which says what it is", where or None
        )
    reason = str(first.get("msg", "it is not valid"))
    given = first.get("input")
    value = f", not {given!r}" if isinstance(given, str | int | float | None) and len(repr(given)) <= 60 else ""
    if first.get("type") == "missing":
        return ErrorResponse(400, "bad_request", f"{where or 'the body'} is missing", where or None)
    return ErrorResponse(400, "bad_request", f"{where or 'the body'}: {reason}{value}", where or None)

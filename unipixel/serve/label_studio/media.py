"""Where a task's picture or video is: on the web, in the task itself, or in Label Studio."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

from unipixel.errors import MediaError
from unipixel.media import Limits, Media, open_media
from unipixel.media.urls import read_origin, shorten_url
from unipixel.serve.media import check_url
from unipixel.serve.settings import ServeSettings

UPLOAD_FOLDER = "/data/upload/"
"""Where Label Studio keeps files that were uploaded to it."""
CLOUD_SCHEMES = ("s3:", "gs:", "azure-blob:", "azure_spi:", "redis:")
_REFRESH = "/api/token/refresh/"
_MAX_RESPONSE = 1 << 16


def open_task_media(value: Any, settings: ServeSettings, medium: str) -> Media:
    """What a task shows.

    Args:
        value: from the task's data.
        medium: ``"image"`` or ``"video"``: what it must be.

    Raises:
        MediaError: it cannot be had, or is something else.
    """
    if not isinstance(value, str) or not value.strip():
        raise MediaError(f"the task's {medium} is {str(value)[:60]!r}; it must be one address")
    url = resolve_address(value.strip(), settings.label_studio_url)
    media = open_media(check_url(url), limits=_get_limits(url, settings))
    if media.is_video != (medium == "video"):
        media.close()
        expected, found = ("a video", "a still picture") if medium == "video" else ("a still picture", "a video")
        raise MediaError(f"{shorten_url(url)} is {found}; the labelling configuration shows {expected}")
    return media


def resolve_address(value: str, label_studio_url: str) -> str:
    """The address of a task's file.

    Args:
        label_studio_url: where Label Studio is; empty if that was not said.

    Raises:
        MediaError: it lies where this server does not look: in a cloud storage, or on Label Studio's own disk.
    """
    if value.lower().startswith(CLOUD_SCHEMES):
        raise MediaError(
            f"{value[:80]!r} is in a cloud storage, to which this server has no key; let Label Studio put signed "
            "http(s) addresses into its tasks"
        )
    if value[:5].lower() == "data:":
        return value
    try:
        path = urlsplit(value).path
    except ValueError as error:
        raise MediaError(f"the address {value[:80]!r} cannot be understood ({error})") from error
    is_label_studios = value.startswith("/") or (
        label_studio_url and read_origin(value) == read_origin(label_studio_url)
    )
    if is_label_studios and "/local-files" in path:
        raise MediaError(f"{value[:80]!r} is on Label Studio's own disk; upload it, or give an http(s) address")
    if is_label_studios and path.endswith(("/resolve/", "/presign/", "/resolve", "/presign")):
        raise MediaError(f"{value[:80]!r} leads to a cloud storage; give the task a signed http(s) address itself")
    if not value.startswith("/"):
        return value
    if not path.startswith(UPLOAD_FOLDER) or value.startswith("//"):
        raise MediaError(f"{value[:80]!r} is no address; give http(s), a data: URL, or a file uploaded to Label Studio")
    if not label_studio_url:
        raise MediaError(
            f"{value[:80]!r} was uploaded to Label Studio, and this server was not told where that is; start it with "
            "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
        )
    return label_studio_url.rstrip("/") + value


def _get_limits(url: str, settings: ServeSettings) -> Limits:
    """What a download is checked against. Files uploaded to Label Studio may be anywhere, and it sees its key."""
    home = settings.label_studio_url
    if not home or not _is_uploaded(url, home):
        return settings.limits
    key = settings.label_studio_key
    authorization = get_authorization(home, key, settings.url_timeout_s) if key else ""
    return replace(settings.limits, trusted_origin=read_origin(home), authorization=authorization)


def _is_uploaded(url: str, home: str) -> bool:
    """Whether an address is a file that was uploaded to Label Studio: nothing else there is asked for with its key."""
    path = unquote(urlsplit(url).path) if url[:5].lower() != "data:" else ""
    begin = urlsplit(home).path.rstrip("/") + UPLOAD_FOLDER
    return read_origin(url) == read_origin(home) and path.startswith(begin) and ".." not in path and "\\" not in path


def get_authorization(home: str, key: str, timeout_s: float) -> str:
    """The header that Label Studio wants: its older tokens as they are, its personal access tokens exchanged.

    Raises:
        MediaError: Label Studio does not take the token.
    """
    if key.count(".") != 2:
        return f"Token {key}"
    address = home.rstrip("/") + _REFRESH
    body = json.dumps({"refresh": key}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json", "User-Agent": "unipixel"})
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s) as response:
            token = json.loads(response.read(_MAX_RESPONSE))["access"]
    except urllib.error.HTTPError as error:
        error.close()
        raise MediaError(
            f"{shorten_url(address)} does not take LABEL_STUDIO_API_KEY ({error.code} {error.reason})"
        ) from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{shorten_url(address)} gives no access token ({type(error).__name__})") from error
    return f"Bearer {token}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a key nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None

"""Media behind ``data:`` and ``http(s):`` addresses, fetched with bounds on size and time."""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from unipixel.errors import MediaError
from unipixel.media.limits import Limits

_CHUNK = 1 << 16


def is_url(source: str) -> bool:
    """Whether a source is an address rather than a path (a single letter before the colon is a drive)."""
    scheme = source.split(":", 1)[0]
    if source[:5].lower() == "data:":
        return True
    return "://" in source and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()


def shown(url: str) -> str:
    """The address as messages write it: short, and without a password or the data themselves."""
    if url[:5].lower() == "data:":
        return f"the data: URL {url.split(',', 1)[0][:40]!r}"
    parts = urllib.parse.urlsplit(url)
    short = f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}"
    return short if len(short) <= 120 else short[:117] + "..."


def check_address(url: str) -> None:
    """Refuse addresses that are not to be fetched; called for the first one and for each redirect.

    Where a name leads is checked when it is connected to, see `connect_public`.

    Raises:
        MediaError: Another scheme than http and https, or no host.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise MediaError(f"the address {url[:120]!r} cannot be understood ({error})") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise MediaError(f"{shown(url)} must begin with http://, https:// or data:, not {parts.scheme}:")
    if not host:
        raise MediaError(f"{shown(url)} names no host")
    if parts.username is not None or parts.password is not None:
        raise MediaError(f"{shown(url)} carries a user name or password, which is not supported; leave it out")


def decode_data_url(url: str, limits: Limits) -> bytes:
    """The bytes inside a ``data:`` URL.

    Raises:
        MediaError: It has no comma, is not valid base64, or is larger than allowed.
    """
    name = shown(url)
    head, comma, payload = url.partition(",")
    if not comma:
        raise MediaError(f"{name} holds no data: the comma before them is missing")
    if not head.lower().endswith(";base64"):
        limits.check_bytes(len(payload), name)
        return urllib.parse.unquote_to_bytes(payload)
    limits.check_bytes(len(payload) * 3 // 4, name)
    try:
        data = base64.b64decode(urllib.parse.unquote(payload), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{name} holds data that are not valid base64 ({error})") from error
    limits.check_bytes(len(data), name)
    return data


def download(url: str, limits: Limits) -> tempfile.TemporaryDirectory[str]:
    """Fetch an http(s) address into the file ``media`` of a temporary folder, which goes when the object does.

    Raises:
        MediaError: The address is refused or unreachable, answers with an error, or passes a limit.
    """
    check_address(url)
    name = shown(url)
    folder = tempfile.TemporaryDirectory(prefix="unipixel-")
    try:
        with open(Path(folder.name) / "media", "wb") as file:
            _fetch(url, file, limits)
    except MediaError:
        folder.cleanup()
        raise
    except urllib.error.HTTPError as error:
        error.close()
        folder.cleanup()
        raise MediaError(f"{name} answered with the error {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        folder.cleanup()
        reason = getattr(error, "reason", None) or error
        raise MediaError(f"{name} cannot be fetched ({reason})") from error
    return folder


def _fetch(url: str, file: IO[bytes], limits: Limits) -> None:
    name, deadline = shown(url), time.monotonic() + limits.url_timeout_s
    request = urllib.request.Request(url, headers={"User-Agent": "unipixel", "Accept": "image/*, video/*, */*;q=0.5"})
    with _opener(limits.private_addresses).open(request, timeout=limits.url_timeout_s) as response:
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal():
            limits.check_bytes(int(announced), name)
        size = 0
        # read1 returns whatever has come, so that a server that drips cannot hold us past the deadline.
        while chunk := response.read1(_CHUNK):
            size += len(chunk)
            limits.check_bytes(size, name)
            if time.monotonic() > deadline:
                raise MediaError(f"{name} took longer than {limits.url_timeout_s:g} s (Limits.url_timeout_s)")
            file.write(chunk)
        limits.check_bytes(size, name)
        if announced.isdecimal() and size < int(announced):
            raise MediaError(f"{name} broke off after {size} of {announced} bytes")


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to addresses that could have been asked for themselves."""

    def redirect_request(  # type: ignore[no-untyped-def]
        self, req, fp, code, msg, headers, newurl
    ):
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also by what an IPv6 address wraps."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # IPv4 in IPv6: mapped, 6to4, and the translation prefix 64:ff9b::/96
        wrapped = ip.ipv4_mapped or ip.sixtofour
        if wrapped is None and int(ip) >> 32 == 0x0064FF9B << 64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def connect_public(host: str, port: int, timeout: float | None) -> socket.socket:
    """A connection to the very address that was checked, so that a name cannot lead elsewhere a moment later.

    Raises:
        MediaError: one of the addresses of the name is not public.
        OSError: none of them answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found or not all(is_public(str(address[0])) for *_, address in found):
        raise MediaError(f"{host[:80]} is not on the public internet; give a public address, or send the data itself")
    failed: OSError | None = None
    for *_, address in found:
        try:
            return socket.create_connection((str(address[0]), port), timeout)
        except OSError as error:
            failed = error
    raise failed or OSError("no address")


class _PublicConnection(http.client.HTTPConnection):
    """Connects to public addresses only."""

    def connect(self) -> None:
        self.sock = connect_public(self.host, self.port, self.timeout)


class _PublicSecureConnection(http.client.HTTPSConnection, _PublicConnection):
    """The same under TLS, which still checks the certificate of the name."""


class _PublicHTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PublicConnection, req)


class _PublicHTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PublicSecureConnection, req)


def _opener(private_addresses: bool) -> urllib.request.OpenerDirector:
    """An opener for http and https only; urllib's own also reads local files and FTP."""
    opener = urllib.request.OpenerDirector()
    if private_addresses:
        handlers = [urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()]
    else:  # and no proxy, which would look names up by itself
        handlers = [_PublicHTTPHandler(), _PublicHTTPSHandler()]
    for handler in (
        *handlers,
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _CheckedRedirects(),
    ):
        opener.add_handler(handler)
    return opener

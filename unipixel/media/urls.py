"""Media behind ``data:`` and ``http(s):`` addresses, fetched with bounds on size and time."""

from __future__ import annotations

import base64
import binascii
import errno
import http.client
import ipaddress
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from unipixel.errors import MediaError
from unipixel.media.limits import Limits

_CHUNK = 1 << 16
_UNQUOTED = "%!$&'()*+,;=:@/?~-._[]|"
"""Signs that stay as they are in an address."""


def strip_url(url: str) -> str:
    """The address as browsers take it: without blanks around it and line breaks inside."""
    return url.strip().translate({ord(sign): None for sign in "\t\r\n"}) if url[:1].isspace() or "\n" in url else url


def encode_url(url: str) -> str:
    """An http(s) address in ASCII: blanks and letters beyond it percent-encoded, the host as IDNA.

    What is percent-encoded already stays as it is.

    Raises:
        MediaError: the host's name cannot be written in ASCII.
    """
    url = strip_url(url)
    if url.isascii() and " " not in url:
        return url
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc
        if not host.isascii():
            name, colon, port = host.partition(":")
            host = name.encode("idna").decode("ascii") + colon + port
    except ValueError as error:  # a host's name that IDNA does not know is one, too
        raise MediaError(f"the address {url[:120]!r} cannot be understood ({error})") from error
    path, query = (urllib.parse.quote(part, safe=_UNQUOTED) for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def is_url(source: str) -> bool:
    """Whether a source is an address rather than a path (a single letter before the colon is a drive)."""
    source = source.lstrip()
    scheme = source.split(":", 1)[0]
    if source[:5].lower() == "data:":
        return True
    return "://" in source and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()


def shorten_url(url: str) -> str:
    """The address as messages write it: short, and without a password or the data themselves."""
    url = url.lstrip()
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
        raise MediaError(f"{shorten_url(url)} must begin with http://, https:// or data:, not {parts.scheme}:")
    if not host:
        raise MediaError(f"{shorten_url(url)} names no host")
    if parts.username is not None or parts.password is not None:
        raise MediaError(f"{shorten_url(url)} carries a user name or password, which is not supported; leave it out")


def decode_data_url(url: str, limits: Limits) -> bytes:
    """The bytes inside a ``data:`` URL.

    Raises:
        MediaError: It has no comma, is not valid base64, or is larger than allowed.
    """
    name = shorten_url(url)
    head, comma, payload = url.lstrip().partition(",")
    if not comma:
        raise MediaError(f"{name} holds no data: the comma before them is missing")
    if head.lower().rpartition(";")[2].strip() != "base64" or ";" not in head:
        limits.check_bytes(len(payload), name)
        return urllib.parse.unquote_to_bytes(payload)
    limits.check_bytes(len(payload) * 3 // 4, name)
    try:
        # as browsers do: blanks and line breaks mean nothing, and the filling at the end may be missing
        packed = "".join(urllib.parse.unquote(payload).split()).rstrip("=")
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{name} holds data that are not valid base64 ({error})") from error
    limits.check_bytes(len(data), name)
    return data


def download(url: str, limits: Limits) -> tempfile.TemporaryDirectory[str]:
    """Fetch an http(s) address into the file ``media`` of a temporary folder, which goes when the object does.

    Raises:
        MediaError: The address is refused or unreachable, answers with an error, or passes a limit.
    """
    url = encode_url(url)
    check_address(url)
    name = shorten_url(url)
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
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise  # it is our disk that is full
        raise MediaError(f"{name} cannot be fetched ({_describe_failure(error)})") from error
    return folder


def _fetch(url: str, file: IO[bytes], limits: Limits) -> None:
    name, deadline = shorten_url(url), time.monotonic() + limits.url_timeout_s
    request = urllib.request.Request(url, headers={"User-Agent": "unipixel", "Accept": "image/*, video/*, */*;q=0.5"})
    _authorize(request, limits)
    slow = limits.build_error(f"{name} took longer than {limits.url_timeout_s:g} s", "url_timeout_s")
    with _Deadline(limits.url_timeout_s) as timer:
        try:
            response = _build_opener(limits, timer).open(request, timeout=limits.url_timeout_s)
        except (OSError, http.client.HTTPException) as error:
            if timer.is_over:
                raise slow from error
            raise
    with response:
        if timer.is_over:  # broken off between two headers, which ends them as well
            raise slow
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal():
            limits.check_bytes(int(announced), name)
        size = 0
        # read1 returns whatever has come, so that a server that drips cannot hold us past the deadline.
        while chunk := response.read1(_CHUNK):
            size += len(chunk)
            limits.check_bytes(size, name)
            if time.monotonic() > deadline:
                raise slow
            file.write(chunk)
        limits.check_bytes(size, name)
        if announced.isdecimal() and size < int(announced):
            raise MediaError(f"{name} broke off after {size} of {announced} bytes")


class _Deadline:
    """Breaks off connections that have not answered when the time is over.

    A socket's own time limit begins anew with every byte, so that a server that drips its headers could hold us for
    ever; so could a chain of redirects.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._connections: list[http.client.HTTPConnection] = []
        self._timer = threading.Timer(seconds, self._end)

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def wrap_connection(self, kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        """Makes connections of a kind that are broken off in time."""

        def connect(host: str, **options: Any) -> http.client.HTTPConnection:
            self._connections.append(kind(host, **options))
            return self._connections[-1]

        return connect

    def _end(self) -> None:
        self.is_over = True
        for sock in [one.sock for one in self._connections if one.sock is not None]:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def read_origin(url: str) -> str:
    """Scheme, host and port of an address, as `Limits.trusted_origin` names them; empty if it cannot be understood."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())
    except ValueError:
        return ""
    return f"{parts.scheme.lower()}://{(parts.hostname or '').lower()}:{port}"


def _is_trusted(url: str, limits: Limits) -> bool:
    return bool(limits.trusted_origin) and read_origin(url) == read_origin(limits.trusted_origin) != ""


def _authorize(request: urllib.request.Request, limits: Limits) -> None:
    """Put the key of a trusted server on a request that goes there; a redirect does not take it elsewhere."""
    if limits.authorization and _is_trusted(request.full_url, limits):
        request.add_unredirected_header("Authorization", limits.authorization)


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to addresses that could have been asked for themselves."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def redirect_request(  # type: ignore[no-untyped-def]
        self, req, fp, code, msg, headers, newurl
    ):
        newurl = encode_url(newurl)
        check_address(newurl)
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None:
            _authorize(new, self._limits)
        return new


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
    end = None if timeout is None else time.monotonic() + timeout
    failed: OSError | None = None
    for *_, address in found:
        left = None if end is None else max(end - time.monotonic(), 0.001)  # one time for all of them
        try:
            connected = socket.create_connection((str(address[0]), port), left)
        except OSError as error:
            failed = error
            continue
        connected.settimeout(timeout)
        return connected
    raise failed or OSError("no address")


class _PublicConnection(http.client.HTTPConnection):
    """Connects to public addresses only."""

    def connect(self) -> None:
        self.sock = connect_public(self.host, self.port, self.timeout)


class _PublicSecureConnection(http.client.HTTPSConnection, _PublicConnection):
    """The same under TLS, which still checks the certificate of the name."""


class _Connections:
    """Chooses how to connect: to public addresses only, but for a trusted server, or where private ones are allowed."""

    def __init__(self, limits: Limits, timer: _Deadline) -> None:
        self._limits, self._timer = limits, timer

    def choose_connection(
        self, request: urllib.request.Request, usual: type[http.client.HTTPConnection]
    ) -> Callable[..., http.client.HTTPConnection]:
        if self._limits.private_addresses or _is_trusted(request.full_url, self._limits):
            return self._timer.wrap_connection(usual)
        is_secure = issubclass(usual, http.client.HTTPSConnection)
        return self._timer.wrap_connection(_PublicSecureConnection if is_secure else _PublicConnection)


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connections.choose_connection(req, http.client.HTTPConnection), req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, connections: _Connections) -> None:
        super().__init__()
        self._connections = connections

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connections.choose_connection(req, http.client.HTTPSConnection), req)


def _build_opener(limits: Limits, timer: _Deadline) -> urllib.request.OpenerDirector:
    """An opener for http and https only; urllib's own also reads local files and FTP."""
    opener, connections = urllib.request.OpenerDirector(), _Connections(limits, timer)
    if limits.private_addresses:  # else no proxy, which would look names up by itself
        opener.add_handler(urllib.request.ProxyHandler())
    for handler in (
        _HTTPHandler(connections),
        _HTTPSHandler(connections),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _CheckedRedirects(limits),
    ):
        opener.add_handler(handler)
    return opener


def _describe_failure(error: BaseException) -> str:
    """Why something could not be fetched, in words without the system's numbers."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, socket.gaierror):
        return "there is no such host, or its name cannot be looked up from here"
    if isinstance(reason, TimeoutError):
        return "it took too long"
    return (getattr(reason, "strerror", None) or str(reason)).lower()

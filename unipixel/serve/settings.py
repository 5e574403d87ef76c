"""Settings of a server: where it listens, who may use it, and how much a request may cost."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

from unipixel.media import Limits

LOG_LEVELS = ("debug", "info", "warning", "error")
_ADDRESS = re.compile(r"https?://[^\s/@?#]+(?:/[^\s@?#]*)?")
MIN_KEY_LENGTH = 16
"""Characters of an API key; shorter ones can be guessed."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Everything about a server but the model.

    Raises:
        ValueError: a bound is not positive, a key is too short, or keys are missing where they are required.
    """

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    model_name: str = "nano"
    """The name under which clients ask for the model."""
    state: Path | None = None
    """Folder in which saved sessions outlive the server; None: nothing does."""
    log_level: str = "info"
    """What is logged: from ``info`` on a line for each request, above it only what went wrong."""
    folder: Path | None = None
    """Folder of pictures and videos that clients may open; None: there is none."""
    api_keys: tuple[str, ...] = ()
    """Keys of which a request must carry one; may be empty on loopback only."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the server; by default only its own page may."""
    private_urls: bool = False
    """Whether media may be fetched from this machine and private networks."""
    label_studio_url: str = ""
    """Where Label Studio is, for files that were uploaded to it; it may be in a private network."""
    label_studio_key: str = field(default="", repr=False)
    """The access token that it wants to see for them."""
    max_upload_bytes: int = 512 << 20
    """Size of one uploaded or fetched file."""
    max_body_bytes: int = 48 << 20
    """Size of one JSON request, media in ``data:`` URLs included."""
    max_bodies_bytes: int = 512 << 20
    """Size of all JSON requests together that are read or wait for their answers: they are held in memory."""
    max_pixels: int = 1 << 25
    """Height times width of one frame."""
    max_source_frames: int = 20_000
    """Frames of one uploaded video."""
    max_video_pixels: int = 1 << 36
    """Height times width times frames of one uploaded video."""
    max_animation_pixels: int = 1 << 29
    """The same of one animated picture, which has to be decoded from its beginning each time."""
    max_frames: int = 1024
    """Frames of one clip: those that are tracked."""
    max_seen_frames: int = 128
    """Frames of one clip that the language model reads."""
    max_tokens: int = 4096
    """Longest reply."""
    max_text: int = 32_000
    """Characters of one question."""
    max_objects: int = 200
    """Objects that one session knows."""
    max_sessions: int = 64
    """Sessions that are open at the same time; saved ones that sleep in the state folder do not count."""
    max_queue: int = 64
    """Requests that wait for the model."""
    max_running: int = 8
    """Requests among which the model goes back and forth, piece by piece; their replies are written together."""
    warm_sessions: int = 8
    """Sessions that keep their features and caches; the others compute them again when they are next asked."""
    cached_sessions: int = 8
    """Sessions of chat conversations that are kept ready for their next turn."""
    idle_s: float = 1800.0
    """Seconds after which an unused session is closed."""
    url_timeout_s: float = 30.0
    """Seconds that fetching one URL may take."""
    grace_s: float = 30.0
    """Seconds that running answers get to finish when the server stops."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            if numeric and not value > 0 and one.name not in ("port", "cached_sessions"):
                raise ValueError(f"{one.name} is {value!r}; it must be positive")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"the port is {self.port}; it must be from 0 (any free one) to 65535")
        if self.log_level not in LOG_LEVELS:
            raise ValueError(f"the log level is {self.log_level!r}; it must be one of {', '.join(LOG_LEVELS)}")
        short = [
            key for key in self.api_keys if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable()
        ]
        if short:
            raise ValueError(f"an API key must be at least {MIN_KEY_LENGTH} printable ASCII characters; one is not")
        if self.label_studio_url and not _ADDRESS.fullmatch(self.label_studio_url):
            raise ValueError(
                f"LABEL_STUDIO_URL is {self.label_studio_url!r}; it must be as http://host:8080, without user and query"
            )
        if not (self.label_studio_key.isascii() and self.label_studio_key.isprintable()):
            raise ValueError("LABEL_STUDIO_API_KEY must be printable ASCII characters; it is not")
        if not self.api_keys and not is_loopback(self.host):
            raise ValueError(
                f"host is {self.host!r}, which others can reach, and there is no API key; set UNIPIXEL_API_KEYS or "
                "--api-keys FILE, or listen on 127.0.0.1"
            )

    @property
    def limits(self) -> Limits:
        """What media are checked against."""
        return Limits(
            max_bytes=self.max_upload_bytes,
            max_pixels=self.max_pixels,
            max_frames=self.max_source_frames,
            max_video_pixels=self.max_video_pixels,
            max_animation_pixels=self.max_animation_pixels,
            url_timeout_s=self.url_timeout_s,
            private_addresses=self.private_urls,
            isolated=True,
            remedy="the server's bound",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

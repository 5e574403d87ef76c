"""The web page: its files, with headers that let it load and reach nothing but this server."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE = Path(__file__).parent / "page"
EXAMPLES = Path(__file__).parent.parent / "examples"
"""A picture and a video to try it with."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    # browsers ask each time whether a file has changed: after an update, old and new ones must not mix
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """Files of the page. A script that someone smuggles in does not run, and what is read cannot be sent elsewhere."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response

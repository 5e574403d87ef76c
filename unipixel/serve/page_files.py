"""The web page: its files, with headers that let it load and reach nothing but this server."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Mount
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


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class PageFiles(StaticFiles):
    """Files of the page. A script that someone smuggles in does not run, and what is read cannot be sent elsewhere.

    They stand behind all other routes, so what comes here is for none of them, or by a method that it does not take.
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, or that there is none, or that the route there wants another method."""
        routes = [route for route in scope["app"].routes if not isinstance(route, Mount)]
        asked = {method: {**scope, "method": method} for method in METHODS}
        allowed = [m for m, one in asked.items() if any(route.matches(one)[0] == Match.FULL for route in routes)]
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        if scope["method"] not in ("GET", "HEAD") and self.lookup_path(path)[1] is None:
            raise HTTPException(404)
        return await super().get_response(path, scope)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response

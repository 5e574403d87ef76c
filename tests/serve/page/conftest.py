"""A headless Chromium in which a visitor uses the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from visitor import Visitor

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser per file: while it is there, nothing else in this thread can run an event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium is installed ({', '.join(BROWSERS)})")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visitor]]:
    """A function that opens the page of a server in a window of its own. At the end, no script may have failed."""
    visitors: list[Visitor] = []

    def open_page(url: str, **options: Any) -> Visitor:
        visitors.append(Visitor(browser, url, options))
        return visitors[-1]

    yield open_page
    failures = [failure for one in visitors for failure in one.failures]
    for one in visitors:
        one.page.context.close()
    assert not failures

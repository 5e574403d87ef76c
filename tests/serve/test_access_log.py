"""What an operator has: a line for each request, ids by which it is found, a page about the API; and wrong methods."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from live import Live, wait_for

from unipixel.serve import ServeSettings, service
from unipixel.serve.metrics import METHODS

LINE = re.compile(r"id=(\S+) method=(\S+) route=(\S+) status=(\d+) seconds=(\d+\.\d{3})")
needs_docs = pytest.mark.skipif(service.API_PAGE_ASSETS is None, reason="the package fastapi-offline is not installed")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="unipixel")
    return caplog


def read_line(log: pytest.LogCaptureFixture, request_id: str) -> tuple[str, ...]:
    """Method, route and status of a request. Its line is written once the answer is sent."""

    def find() -> list[tuple[str, ...]]:
        lines = [LINE.fullmatch(one.getMessage()) for one in [*log.records] if one.name == "unipixel.access"]
        return [line.groups()[1:4] for line in lines if line is not None and line[1] == request_id]

    wait_for(find)
    (line,) = find()
    return line


def test_each_request_leaves_one_line_with_its_id_and_nothing_private(
    quick: Live, media: Path, log: pytest.LogCaptureFixture
) -> None:
    address = quick.upload(media / "picture.png")
    answer = quick.http.post(
        f"{address}/ask",
        json={"text": "Where is the secret?", "max_tokens": 1},
        headers={"X-Request-Id": "from-proxy.7"},
    )
    assert answer.status_code == 200 and answer.headers["x-request-id"] == "from-proxy.7"
    given = quick.http.get("/nowhere?key=hidden", headers={"Authorization": "Bearer hidden"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", given)
    assert read_line(log, "from-proxy.7") == ("POST", "/v1/sessions/{session_id}/ask", "200")
    assert read_line(log, given) == ("GET", "other", "404")
    assert not any(word in log.text for word in ("secret", "hidden", address.rsplit("/", 1)[1]))


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "a\tb", "é".encode(), "id=7 status=200"])
def test_an_id_that_could_spoil_the_log_is_replaced(quick: Live, given: str | bytes) -> None:
    told = quick.http.get("/health", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", told)


def test_what_failed_is_found_by_its_id(
    quick: Live, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> int:
        raise RuntimeError("a fault of the server's own")

    monkeypatch.setattr(service, "measure_memory", fail)
    assert quick.http.get("/health", headers={"X-Request-Id": "seven"}).status_code == 500
    (failure,) = [record for record in log.records if record.exc_info]
    assert "id=seven" in failure.getMessage() and read_line(log, "seven") == ("GET", "/health", "500")


def test_above_info_requests_leave_no_line(quick: Live, log: pytest.LogCaptureFixture) -> None:
    log.set_level(logging.WARNING, logger="unipixel")
    quick.get("/health")
    assert not log.records
    with pytest.raises(ValueError, match="the log level is 'loud'; it must be one of debug, info, warning, error"):
        ServeSettings(log_level="loud")


def test_every_route_refuses_other_methods_and_names_its_own(quick: Live) -> None:
    described = quick.get("/openapi.json")["paths"]
    assert len(described) > 25
    for route in described:
        path = re.sub(r"\{[^}]*\}", "1", route)
        # of two routes that fit one address, both are allowed
        fitting = [one for one in described if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", one), path)]
        known = {method.upper() for one in fitting for method in described[one]}
        for method in {*METHODS, "OPTIONS"} - known:
            answer = quick.http.request(method, path)
            assert answer.status_code == 405, (method, path, answer.text)
            assert set(answer.headers["allow"].split(", ")) == known, (method, path)
            assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/redoc", "/docs/", "/docs/nothing.js", "/v2/chat", "/v1/sessions/x/nothing", "/%2e%2e/x"]
)
def test_what_is_not_there_is_not_found(quick: Live, path: str) -> None:
    assert quick.get(path, 404)["error"]["code"] == "not_found"


@needs_docs
def test_page_about_the_api_names_no_other_host(quick: Live) -> None:
    page = quick.http.get("/docs")
    assert (
        page.status_code == 200 and "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    )
    files = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert "docs/swagger-ui-bundle.js" in files and not any("//" in file for file in files)
    for file in files:
        if not file.startswith("data:"):
            answer = quick.http.get(f"/{file}")
            assert answer.status_code == 200 and answer.content
    assert "//" not in re.sub(r"^//.*$", "", quick.http.get("/docs.js").text, flags=re.M)


def test_page_about_the_api_says_what_it_misses(quick: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "API_PAGE_ASSETS", None)
    error = quick.get("/docs", 404)["error"]
    assert error["code"] == "not_installed" and "pip install 'unipixel[serve]'" in error["message"]

"""What a page of someone else can do to a server on the visitor's machine, in a real browser: nothing."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from live import Live
from visitor import Visitor

from unipixel.serve import service

pytestmark = pytest.mark.slow  # minutes in a browser, which not every machine has
Visit = Callable[..., Visitor]
FOREIGN = b"<!doctype html><title>Elsewhere</title><body>Something else"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The address of a page that does not belong to the server."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(FOREIGN)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def address(quick: Live, media: Path) -> str:
    """A session with an object."""
    session = quick.upload(media / "clip.mp4")
    prompts = {"prompts": [{"type": "point", "x": 20, "y": 20}], "force": True}
    assert quick.http.post(f"{session}/objects", json=prompts).status_code == 200
    return session


@pytest.fixture
def foreign(browser: Any, elsewhere: str) -> Iterator[Any]:
    """A window on that page."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(elsewhere)
    yield page
    context.close()


def sessions(live: Live) -> list[str]:
    return [one["id"] for one in live.get("/v1/sessions")["sessions"]]


ATTEMPTS = {
    "json as text": """fetch(URL + "/v1/sessions", {method: "POST", mode: "no-cors", credentials: "include",
        headers: {"Content-Type": "text/plain"}, body: JSON.stringify({url: PICTURE})})""",
    "json": """fetch(URL + "/v1/sessions", {method: "POST", headers: {"Content-Type": "application/json"},
        body: JSON.stringify({url: PICTURE})})""",
    "upload": """(() => { const form = new FormData(); form.append("file", new Blob([new Uint8Array(64)]), "a.png");
        return fetch(URL + "/v1/sessions/upload", {method: "POST", mode: "no-cors", body: form}) })()""",
    "chat": """fetch(URL + "/v1/chat/completions", {method: "POST", mode: "no-cors",
        body: JSON.stringify({model: "nano", messages: [{role: "user",
            content: [{type: "image_url", image_url: {url: PICTURE}}]}]})})""",
    "delete": "fetch(URL + SESSION, {method: 'DELETE'})",
    "stop": "fetch(URL + SESSION + '/stop', {method: 'POST', mode: 'no-cors'})",
    "beacon": "Promise.resolve(navigator.sendBeacon(URL + SESSION + '/undo', 'x'))",
    "read": "fetch(URL + '/v1/sessions').then((answer) => answer.text())",
    "read blind": "fetch(URL + SESSION + '/frames/0', {mode: 'no-cors'}).then((answer) => answer.blob())",
    "picture": """new Promise((done, fail) => { const image = new Image(); image.onload = () => done("seen");
        image.onerror = fail; image.src = URL + SESSION + "/frames/0"; })""",
    "script": """new Promise((done, fail) => { const tag = document.createElement("script");
        tag.onload = () => done("run"); tag.onerror = fail;
        tag.src = URL + "/v1/sessions"; document.body.append(tag); })""",
}
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_foreign_page_can_neither_change_nor_read_anything(
    quick: Live, foreign: Any, address: str, name: str
) -> None:
    before, objects = sessions(quick), quick.get(address)
    script = f"const URL = {json.dumps(quick.url)}, SESSION = {json.dumps(address)}, PICTURE = {json.dumps(PICTURE)};"
    outcome = foreign.evaluate(
        f"async () => {{ {script} try {{ const got = await ({ATTEMPTS[name]});"
        " return got instanceof Response ? [got.type, got.status] : got instanceof Blob ? got.size : String(got) }"
        " catch (error) { return 'refused' } }"
    )
    # an answer to "no-cors" is opaque: the page does not see that it was refused
    assert outcome in ("refused", ["opaque", 0], "true", 0), outcome
    assert sessions(quick) == before and quick.get(address) == objects


def test_a_form_of_a_foreign_page_is_refused(quick: Live, foreign: Any, address: str) -> None:
    before = sessions(quick)
    foreign.evaluate(
        "(url) => { document.body.innerHTML = `<form method=post enctype='text/plain' action='${url}/v1/sessions'>"
        '<input name=\'{"url": "data:,", "x\' value=\'": 1}\'></form>`; document.forms[0].submit() }',
        quick.url,
    )
    foreign.wait_for_url(f"{quick.url}/v1/sessions")
    assert json.loads(foreign.locator("body").inner_text())["error"]["code"] == "wrong_origin"
    assert sessions(quick) == before


def test_a_name_that_leads_here_later_is_refused(quick: Live, browser: Any) -> None:
    """DNS rebinding: the browser takes the server for the foreign page's own."""
    context = browser.new_context()
    page = context.new_page()
    port = urlsplit(quick.url).port
    answer = page.goto(f"http://rebound.example:{port}/")
    assert answer.status == 403 and "is not this machine" in answer.text()
    found = page.evaluate("fetch('/v1/sessions').then(async (answer) => [answer.status, await answer.text()])")
    assert found[0] == 403 and "wrong_host" in found[1]
    context.close()


def test_the_page_cannot_be_laid_under_another(quick: Live, foreign: Any) -> None:
    """Clickjacking: a frame of the page stays empty."""
    foreign.evaluate(
        "(url) => new Promise((done) => { const frame = document.createElement('iframe'); frame.onload = done;"
        " frame.src = url; document.body.append(frame); })",
        quick.url,
    )
    inside = foreign.frames[1]
    assert inside.url == "chrome-error://chromewebdata/" and inside.locator("#file").count() == 0


NAMES = [
    "<img src=x onerror=document.title='pwned'>.png",
    "\"><script>document.title='pwned'</script>.png",
    "';document.title='pwned';'.png",
    "javascript:document.title='pwned'.png",
    "\u202egnp.<svg onload=document.title='pwned'>.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_and_objects_are_text(quick: Live, visit: Visit, media: Path, name: str) -> None:
    files = {"file": (name, (media / "picture.png").read_bytes())}
    opened = quick.http.post("/v1/sessions/upload", files=files)
    assert opened.status_code == 201, opened.text
    address = f"/v1/sessions/{opened.json()['id']}"
    quick.http.post(f"{address}/objects", json={"prompts": [{"type": "point", "x": 5, "y": 5}], "force": True})
    quick.http.patch(f"{address}/objects/1", json={"label": name[:60]})
    visitor = visit(f"{quick.url}/#{opened.json()['id']}")
    visitor.opened()
    visitor.see("#objects-list")
    assert visitor.page.title() != "pwned"
    assert visitor.page.locator("#work img[src=x], #work script, #work svg[onload]").count() == 0
    quick.http.delete(address)


def test_description_of_the_api_is_shown_and_tried_without_another_host(quick: Live, visit: Visit) -> None:
    if service.API_PAGE_ASSETS is None:
        pytest.skip("the package fastapi-offline is not installed")
    visitor = visit(f"{quick.url}/docs")
    visitor.see("#operations-service-health").click()
    visitor.see(".execute").click()
    assert '"status": "UP"' in visitor.see(".live-responses-table .microlight").inner_text()
    assert {urlsplit(host).netloc for host in visitor.hosts if not host.startswith("data:")} == {
        urlsplit(quick.url).netloc
    }

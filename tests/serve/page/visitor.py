"""Someone who uses the page: what they do, and what they can see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DESK = {"width": 1100, "height": 720}
PHONE = {"width": 375, "height": 740}
PATIENCE_MS = 30_000


class Visitor:
    """A window on the page of a server.

    Attributes:
        failures: errors of the page's scripts, and violations of its policy.
        hosts: where it has sent requests.
    """

    def __init__(self, browser: Any, url: str, options: dict[str, Any]) -> None:
        context = browser.new_context(**{"viewport": DESK, "reduced_motion": "reduce", **options})
        context.set_default_timeout(PATIENCE_MS)
        self.page = context.new_page()
        self.failures: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/v1/")[0].split("/examples/")[0]))
        self.url = url
        self.page.goto(url)

    def _heard(self, message: Any) -> None:
        # a browser reports every refused request as an error; those are told on the page
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.failures.append(message.text)

    def see(self, selector: str, state: str = "visible") -> Any:
        """Wait until something is there (or, with ``hidden``, is not)."""
        found = self.page.locator(selector).first
        found.wait_for(state=state)
        return found

    def text(self, selector: str) -> str:
        """The words that are seen there."""
        return str(self.page.locator(selector).first.inner_text())

    def open(self, path: Path, **options: Any) -> str:
        """Open a file, and return the address of its session."""
        if options:
            self.page.locator(".options summary").click()
        if options.get("track") == "all":
            self.page.get_by_label("Every frame").check()
        if "num_frames" in options:
            self.page.get_by_label("How many").fill(str(options["num_frames"]))
        self.page.locator("#file").set_input_files(path)
        return self.opened()

    def opened(self) -> str:
        """Wait for the picture, and return the address of the session."""
        self.see("#work")
        self.see('#overlay[data-shown="0"]')
        return f"/v1/sessions/{self.page.url.split('#')[1]}"

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where on the screen a pixel of the source is."""
        box = self.page.locator("#overlay").bounding_box()
        width, height = self.page.evaluate(
            "import('/state.js').then(({state}) => [state.session.media.width, state.session.media.height])"
        )
        return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]

    def tool(self, name: str) -> None:
        """Take up a tool."""
        self.page.locator(f".tool[data-tool={name}]").click()

    def click(self, x: float, y: float, key: str | None = None, **how: Any) -> None:
        """Click on a pixel of the source, with a key held down, and wait for what comes of it."""
        if key:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.place(x, y), **how)
        if key:
            self.page.keyboard.up(key)
        self.idle()

    def drag(self, *places: tuple[float, float]) -> None:
        """Press, move over pixels of the source, let go."""
        self.page.mouse.move(*self.place(*places[0]))
        self.page.mouse.down()
        for one in places[1:]:
            self.page.mouse.move(*self.place(*one))
        self.page.mouse.up()

    def ask(self, text: str) -> None:
        """Ask, and wait for the answer."""
        self.page.locator("#question").fill(text)
        self.page.keyboard.press("Enter")
        self.see(".answered")
        self.idle()

    def idle(self) -> None:
        """Wait until the server has done everything."""
        self.page.evaluate(IDLE)

    def state(self, expression: str) -> Any:
        """What the page knows: an expression about ``state``."""
        return self.page.evaluate(f"import('/state.js').then(({{state}}) => {expression})")

    def masks(self) -> str:
        """Ids of the objects that are drawn."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return str(self.page.locator("#overlay").get_attribute("data-masks"))

    def notice(self) -> str:
        """The latest notice."""
        self.see(".notice")
        return str(self.page.locator(".notice p").last.inner_text())


IDLE = """async () => {
  const { state } = await import('/state.js');
  const isIdle = () => !state.busy && !state.pending.length && !state.turns.some((turn) => turn.isWriting);
  for (let quiet = 0; quiet < 3; quiet = isIdle() ? quiet + 1 : 0) await new Promise((done) => setTimeout(done, 10));
}"""

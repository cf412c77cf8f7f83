"""Headless Chromium, and a report opened in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SIZE = {"width": 1280, "height": 1400}


def found() -> str | None:
    """The browser, where there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found(), args=FLAGS)
        page = chromium.new_page()  # the browser's own helpers start with its first page, not in a test
        page.goto(Path(__file__).as_uri())
        page.wait_for_timeout(1000)
        page.close()
        yield chromium
        chromium.close()


class Opened:
    """A page with all that it said and asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(**{"viewport": SIZE, **context})
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)

    def points(self) -> int:
        """Points of the layers' own traces in the plane, as far as the slider shows them."""
        return self.page.evaluate(
            "document.getElementById('plane').data.filter((t) => t.mode === 'markers' && t.hoverinfo === 'text')"
            ".reduce((n, t) => n + t.x.length, 0)"
        )

    def now(self) -> dict[str, Any]:
        """The current line of the first run."""
        return self.page.evaluate(
            "(() => { const t = document.getElementById('plane').data.find((t) => (t.name || '').startsWith('now'));"
            " return {x: t.x, y: t.y}; })()"
        )

    def saved(self, what: str) -> str:
        """The text of the file that a button hands out."""
        with self.page.expect_download() as found:
            self.page.click(f"#save-{what}")
        return Path(found.value.path()).read_text()

    def check_first_screen(self) -> None:
        """Plane and controls stand in the first screen, and nothing has to be scrolled sideways."""
        size = self.page.viewport_size
        assert self.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        for name in ("warnings", "estimate", "mode", "axis", "play", "step", "now", "plane"):
            box = self.page.locator(f"#{name}").bounding_box()
            assert box["y"] >= 0, name
            assert box["y"] + box["height"] <= size["height"], name
            assert box["x"] >= 0, name
            assert box["x"] + box["width"] <= size["width"], name
        width = self.page.evaluate("document.getElementById('plane')._fullLayout._size.w")
        assert width > 0.5 * self.page.locator("#plane").bounding_box()["width"]

    def slide(self, index: int) -> None:
        self.page.evaluate(
            "(i) => { const s = document.getElementById('step'); s.value = i; s.dispatchEvent(new Event('input'));"
            " return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))); }",
            index,
        )

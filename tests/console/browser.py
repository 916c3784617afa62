"""A browser for tests of the console, and the checks that hold for every page of it."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.console.stub_stack import StubStack

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PAGES = ("try", "market", "live", "decisions", "evaluations")
INTERACTIVE_S = 2.0
"""Seconds after which the first page must take what is typed."""
SERIOUS = frozenset({"serious", "critical"})
"""Impacts of axe-core's findings that fail a test."""


@contextmanager
def launched() -> Iterator["Browser"]:
    """Starts Chromium, or skips the test with what is missing.

    Playwright's own event loop runs as long as this lasts, so no other test may run meanwhile in this thread.
    """
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A tab on the console that notes what no page may do."""

    def __init__(self, browser: "Browser", url: str, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | options))
        self.context.set_default_timeout(15_000)
        self.elsewhere: list[str] = []
        self.faults: list[str] = []
        self.page = self.tab()

    def tab(self) -> "Page":
        """Opens another tab of the same browser profile."""
        page = self.context.new_page()
        page.on("request", lambda request: self._note(request.url))
        page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        return page

    def _note(self, url: str) -> None:
        if urlsplit(url)[:2] != urlsplit(self.url)[:2] and not url.startswith("data:"):
            self.elsewhere.append(url)

    def enter(self, key: str | None = None, page: str = "try") -> "Page":
        """Opens a page of the console, with a key as if it had been typed in."""
        if key is not None:
            self.page.add_init_script(f"sessionStorage.setItem('learnware-key', {key!r})")
        self.page.goto(f"{self.url}/console/#/{page}")
        self.page.wait_for_selector(".shell")
        return self.page

    def go(self, page: str) -> None:
        """Goes to another page by its address."""
        self.page.goto(f"{self.url}/console/#/{page}")

    def ask(self, text: str) -> None:
        """Sends a message and waits for the end of its answer."""
        self.page.fill("#prompt", text)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector(".exchange:last-child .answer[aria-busy=false]", timeout=60_000)

    def check(self, allowed: str | None = None) -> None:
        """Fails if anything was asked of another origin, or if the browser's console has an error that does not hold
        `allowed`."""
        assert self.elsewhere == []
        assert [fault for fault in self.faults if allowed is None or allowed not in fault] == []

    def close(self) -> None:
        self.context.close()


def serious_findings(page: "Page") -> list[str]:
    """What axe-core finds in a page that is serious, in words."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in SERIOUS
    ]


def until(page: "Page", expression: str, argument: Any = None, timeout_s: float = 15.0) -> None:
    """Waits until an expression holds in a page. Playwright's own `wait_for_function` evaluates text in the page, which
    the content security policy forbids."""
    end = time.monotonic() + timeout_s
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"{expression} did not come to hold within {timeout_s:g} s"
        page.wait_for_timeout(10)


def overflow(page: "Page") -> int:
    """Pixels by which a page is wider than its window."""
    wide: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return wide


def screenshot(page: "Page", folder: Path, name: str) -> Path:
    """Writes what the window shows as `name`.png."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    return path


Open = Callable[..., tuple[StubStack, Watched]]
"""Opens the console of a stack that the test plays (the fixture `opened`)."""

"""A browser for the tests of the console, and the console of a stack that a test plays."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.console.browser import Open, Watched, launched
from tests.console.stub_stack import StubStack, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with launched() as browser:
        yield browser


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Open]:
    """Opens the console of a stack; at the end nothing was asked of others, and the console of the browser is clean."""
    tabs: list[tuple[Watched, str | None]] = []
    with ExitStack() as stack:

        def open_(
            *, allowed: str | None = None, stub: dict[str, Any] | None = None, **options: Any
        ) -> tuple[StubStack, Watched]:
            played = StubStack(**(stub or {}))
            tab = Watched(browser, stack.enter_context(served(played)), **options)
            stack.callback(tab.close)
            tabs.append((tab, allowed))
            return played, tab

        yield open_
        for tab, allowed in tabs:
            tab.check(allowed)

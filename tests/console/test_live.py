"""The page *Live*: where adapters are, and what a lost connection looks like."""

import re
from typing import TYPE_CHECKING

import pytest

from tests.console.browser import Open, until

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.extra, pytest.mark.slow]

QUESTION = "A shop packs 12 boxes of 8 pencils. Which operation comes first?"
NAMES_IN_SLOTS = "[...document.querySelectorAll('.slots [data-adapter]')].map((one) => one.innerText)"
SET_HIDDEN = """(hidden) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_the_picture_of_the_tiers_follows_the_stack(opened: Open) -> None:
    played, tab = opened()
    page = tab.enter(page="live")
    page.wait_for_selector(".slots .cell")
    assert page.locator(".slots .cell").count() == 4
    assert page.locator(".slots .cell.free").count() == 1
    assert page.locator(".in-host .cell").count() == 6
    before = page.evaluate(NAMES_IN_SLOTS)
    kept = page.evaluate("[...document.querySelectorAll('.slots .cell')].map((one) => one.dataset.adapter)")
    until(page, f"(before) => JSON.stringify({NAMES_IN_SLOTS}) !== JSON.stringify(before)", before)
    now = page.evaluate("[...document.querySelectorAll('.slots .cell')].map((one) => one.dataset.adapter)")
    assert any(one == other and one is not None for one, other in zip(kept, now, strict=True)) or not set(kept) & set(
        now
    )
    shown = page.inner_text("main")
    for text in (
        "1 replica",
        "KV cache 37 %",
        "Tokens a second",
        "Waiting, by what for",
        "alice",
        "bob",
        "base:better",
    ):
        assert text in re.sub(r"\s+", " ", shown), text
    page.wait_for_timeout(3200)  # two more states
    assert page.locator("canvas").count() == 4
    drawn = page.evaluate(
        """() => [...document.querySelectorAll("canvas")].map((one) =>
            one.getContext("2d").getImageData(0, 0, one.width, one.height).data).map((data) =>
            new Set(new Uint32Array(data.buffer)).size)"""
    )
    assert min(drawn) > 3
    assert played.live_calls >= 3


def test_nothing_is_polled_while_the_tab_is_hidden(opened: Open) -> None:
    played, tab = opened()
    page = tab.enter(page="live")
    page.wait_for_selector(".slots .cell")
    page.evaluate(SET_HIDDEN, True)
    page.wait_for_timeout(400)
    calls = played.live_calls
    page.wait_for_timeout(3500)
    assert played.live_calls == calls
    page.evaluate(SET_HIDDEN, False)
    page.wait_for_timeout(800)
    assert played.live_calls == calls + 1


def test_a_lost_connection_is_said_and_ends_by_itself(opened: Open) -> None:
    played, tab = opened(allowed="ERR_INTERNET_DISCONNECTED")
    page = tab.enter(page="live")
    page.wait_for_selector(".slots .cell")
    tab.context.set_offline(True)
    page.wait_for_selector(".banner >> text=The connection to the stack is lost")
    assert page.locator(".slots .cell").count() == 4  # what was known stays in sight
    tab.go("try")
    tab.ask(QUESTION)
    assert "connection" in page.inner_text(".answer [role=alert]")
    tab.context.set_offline(False)
    until(page, "document.querySelector('.banner').textContent === ''")
    calls = played.live_calls
    tab.go("live")
    page.wait_for_timeout(2500)
    assert played.live_calls > calls
    assert page.locator(".live-page.stale").count() == 0

"""The page *Decisions*: the log, filtered, shown and replayed."""

from typing import TYPE_CHECKING

import pytest

from tests.console.browser import Open, until

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.extra, pytest.mark.slow]


def test_decisions_are_filtered_shown_and_replayed(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(page="decisions")
    page.wait_for_selector(".list tbody tr")
    assert page.locator(".list tbody tr").count() == 50
    page.click("text=Older ones")
    until(page, "document.querySelectorAll('.list tbody tr').length === 60")
    page.fill("label:has-text('Status') input", "429")
    until(page, "document.querySelectorAll('.list tbody tr').length === 10")
    assert "nobody" in page.inner_text(".list tbody tr")
    page.fill("label:has-text('Status') input", "418")
    page.wait_for_selector("text=No decision fits these filters")
    page.click(".filters >> text=Clear")
    page.wait_for_selector(".list tbody tr")
    page.click(".list tbody tr:nth-child(2) a")
    page.wait_for_selector(".sheet")
    shown = page.inner_text("main")
    for text in ("req-0001", "base:better", ".742", ".311", "bob", "wrong", "4bf92f3577b34da6a3ce929d0e0e4736"):
        assert text in shown, text
    page.click("text=Replay against")
    page.wait_for_selector("text=another choice")
    assert "healthcare-medqa_usmle is expected to answer better" in page.inner_text("main")

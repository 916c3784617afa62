"""The console of the running stack in a real browser: each page in short, and a picture of each."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.console.browser import INTERACTIVE_S, Watched, launched, overflow, screenshot, serious_findings, until
from tests.e2e.support import ADMIN_KEY, BASE, USER_KEY, Stack

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.extra, pytest.mark.e2e]

PICTURES = "CONSOLE_SCREENSHOTS"
"""Environment variable with the folder that the pictures go to; else it is the test's own."""
QUESTION = (
    "Choose the first arithmetic operation: addition, subtraction, multiplication or division.\n"
    "A shop packs 12 boxes with 8 pencils each and gives 15 pencils away. How many pencils are left?"
)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get(PICTURES)
    return Path(named) if named else tmp_path_factory.mktemp("pictures")


@pytest.fixture
def tab(stack: Stack, browser: "Browser") -> Iterator[Watched]:
    tab = Watched(browser, stack.url)
    yield tab
    tab.close()


def test_the_shell_is_served_to_anybody_and_nothing_else_is(stack: Stack, tab: Watched) -> None:
    with stack.client() as client:
        del client.headers["authorization"]
        page = client.get("/console/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for path in ("/console/api/session", "/console/api/live", "/v1/learnwares", "/v1/decisions", "/v1/evaluations"):
            assert client.get(path).status_code == 401, path
    began = time.monotonic()
    tab.page.goto(f"{stack.url}/console/", wait_until="commit")
    tab.page.wait_for_selector("input[type=password]")
    assert time.monotonic() - began <= INTERACTIVE_S
    tab.check("401")


def test_an_answer_streams_with_its_reasons_and_another_beside_it(tab: Watched, pictures: Path) -> None:
    page = tab.enter(USER_KEY)
    page.wait_for_selector(".examples li")
    tab.ask(QUESTION)
    answer = page.inner_text(".answer")
    assert "first token" in answer
    assert page.inner_text(".answer .text").strip()
    page.wait_for_selector(".why meter")
    assert page.locator(".why tr.chosen").count() == 1
    page.select_option(".answer-with select", BASE)
    page.wait_for_selector(".answer:nth-child(2)[aria-busy=false]", timeout=60_000)
    assert BASE in page.inner_text(".answer:nth-child(2) header")
    page.click(".answer .verdict.right")
    page.wait_for_selector("text=/Kept (with the decision|, and learnt from)/")
    assert serious_findings(page) == []
    screenshot(page, pictures, "console-try")
    tab.check()


def test_the_market_shows_a_learnware_and_keeps_changes_to_the_admin_key(tab: Watched, pictures: Path) -> None:
    page = tab.enter(USER_KEY, "market")
    page.wait_for_selector(".list tbody tr")
    assert page.is_disabled("text=Submit a learnware")
    page.fill("input[type=search]", "finance-tfns")
    page.click(".list a >> text=finance-tfns")
    page.wait_for_selector(".sheet >> text=Off its task")
    assert page.locator(".head >> text=Remove").count() == 0
    tab.check()


def test_a_learnware_goes_into_quarantine_and_comes_back(tab: Watched, pictures: Path) -> None:
    page = tab.enter(ADMIN_KEY, "market")
    page.wait_for_selector(".list tbody tr")
    screenshot(page, pictures, "console-market")
    tab.go("market/healthcare-medquad_qa")
    page.click(".head >> text=Quarantine")
    page.fill("dialog textarea", "a look at the console")
    page.click("dialog button[type=submit]")
    page.wait_for_selector(".head .tag >> text=quarantined", timeout=30_000)
    page.click(".head >> text=Release")
    page.click("dialog button[type=submit]")
    page.wait_for_selector(".head .tag >> text=served", timeout=30_000)
    screenshot(page, pictures, "console-learnware")
    tab.check()


def test_a_broken_submission_is_refused_in_the_stacks_words(tab: Watched) -> None:
    page = tab.enter(ADMIN_KEY, "market")
    page.click("text=Submit a learnware")
    page.set_input_files(
        "dialog input[type=file]", {"name": "x.zip", "mimeType": "application/zip", "buffer": b"PK" * 999}
    )
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog [role=alert]", timeout=60_000)
    assert page.locator(".steps .passed").count() == 1  # it arrived, and is no zip
    tab.check("400")


def test_live_shows_the_slots_and_the_lines(tab: Watched, pictures: Path) -> None:
    page = tab.enter(ADMIN_KEY, "live")
    page.wait_for_selector(".slots .cell")
    assert page.locator(".slots .cell").count() == 4  # of the stack of these tests
    until(page, "document.querySelectorAll('canvas').length === 4")
    page.wait_for_timeout(8000)
    assert page.locator(".columns table").count() == 3  # the tests before have asked something
    assert serious_findings(page) == []
    screenshot(page, pictures, "console-live")
    tab.check()


def test_a_decision_is_found_and_replayed(tab: Watched, pictures: Path) -> None:
    page = tab.enter(USER_KEY)
    tab.ask(QUESTION)
    page.wait_for_timeout(1500)  # records travel each half second
    tab.go("decisions")
    page.click(".list tbody tr:first-child a")
    page.wait_for_selector(".sheet")
    page.click("text=Replay against")
    page.wait_for_selector("text=/the same choice|another choice/")
    screenshot(page, pictures, "console-decision")
    tab.check()


def test_evaluations_are_shown_to_each_key_as_far_as_they_are_its_own(
    stack: Stack, browser: "Browser", pictures: Path
) -> None:
    for key in (USER_KEY, ADMIN_KEY):
        tab = Watched(browser, stack.url)
        try:
            page = tab.enter(key, "evaluations")
            page.wait_for_selector("main .compared, main .trial, main .empty")
            whose = page.inner_text(".head p")
            assert whose.startswith("of all tenants’ requests" if key == ADMIN_KEY else "of user’s requests")
            assert "NaN" not in page.inner_text("main")
            assert key == ADMIN_KEY or page.locator(".trial button").count() == 0
            assert serious_findings(page) == []
            screenshot(page, pictures, "console-evaluations")
            tab.check()
        finally:
            tab.close()


def test_a_small_dark_screen_shows_it_too(stack: Stack, browser: "Browser", pictures: Path) -> None:
    tab = Watched(browser, stack.url, viewport={"width": 360, "height": 740}, color_scheme="dark")
    try:
        page = tab.enter(ADMIN_KEY)
        tab.ask(QUESTION)
        page.wait_for_selector(".why meter")
        for name, awaited in (
            ("try", ".answer"),
            ("market", ".list"),
            ("live", ".slots"),
            ("decisions", ".list"),
            ("evaluations", ".head h1"),
        ):
            tab.go(name)
            page.wait_for_selector(awaited)
            assert overflow(page) <= 0, name
            assert serious_findings(page) == []
        tab.check()
    finally:
        tab.close()

"""The page *Market*: learnwares, hostile ones among them, and what the admin key changes."""

from typing import TYPE_CHECKING

import pytest

from tests.console.browser import Open, until
from tests.console.made_answers import HOSTILE_ID, HOSTILE_TEXT, ON_TRIAL
from tests.console.stub_stack import ADMIN_KEY

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.extra, pytest.mark.slow]

HOSTILE_PAGE = f"market/{HOSTILE_ID.replace('/', '%2F')}"
ZIP = {"name": "new.zip", "mimeType": "application/zip", "buffer": b"PK" * 5000}


def test_the_market_is_searched_and_a_learnware_shown_whole(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(page="market")
    page.wait_for_selector(".list tbody tr")
    page.fill("input[type=search]", "financial tweet sentiment")
    until(page, "document.querySelectorAll('.list tbody tr').length === 1")
    page.click(".list tbody a")
    page.wait_for_selector(".sheet")
    shown = page.inner_text("main")
    for text in (
        "Financial tweet sentiment",
        "finance-tfns",
        "Measured quality",
        ".310",
        "Off its task",
        "Drift",
        "Versions",
    ):
        assert text in shown, text
    assert page.locator("text=Quarantine").count() == 0  # not without the admin key


def test_the_admin_key_quarantines_releases_and_removes(opened: Open) -> None:
    played, tab = opened(allowed="403")
    page = tab.enter(ADMIN_KEY, "market/finance-fiqa_sa")
    page.click(".head >> text=Quarantine")
    assert page.is_disabled("dialog button[type=submit]")
    page.fill("dialog textarea", "it answers in riddles")
    page.click("dialog button[type=submit]")
    page.wait_for_selector(".note.bad >> text=it answers in riddles")
    assert played.learnwares["finance-fiqa_sa"]["state"] == "quarantined"
    page.click(".head >> text=Release")
    page.click("dialog button[type=submit]")
    page.wait_for_selector(".tag >> text=served")
    page.click(".head >> text=Remove")
    page.keyboard.press("Escape")
    assert played.learnwares["finance-fiqa_sa"]["state"] == "active"
    page.click(".head >> text=Remove")
    page.click("dialog button[type=submit]")
    page.wait_for_selector(".head .tag >> text=removed")
    tab.go("market/finance-tfns")
    page.click(".head >> text=Remove")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog >> text=is pinned; take it out of engine.pinned first")


def test_a_canary_is_shown_with_those_before_it_and_ended_by_hand(opened: Open) -> None:
    played, tab = opened()
    page = tab.enter(page="market")
    row = page.locator(f".list tbody tr:has-text('{ON_TRIAL}')")
    row.wait_for()
    assert "canary 5 %" in row.inner_text()
    assert page.locator(".list .tag >> text=canary").count() == 1
    row.locator("a").click()
    page.wait_for_selector(".sheet")
    shown = page.inner_text("main")
    for text in ("Version 4 is on trial", "5 %", f"{ON_TRIAL}@canary", "rolled back", "its answers are worse"):
        assert text in shown, text
    assert page.locator(".head button").count() == 0  # not without the admin key
    page = tab.enter(ADMIN_KEY, f"market/{ON_TRIAL}")
    page.reload()
    page.wait_for_selector(".head button")
    assert page.locator(".head >> text=New version").count() == 0  # one canary at a time
    page.click(".head >> text=Promote canary")
    page.click("dialog button[type=submit]")
    page.wait_for_selector(f"text={ON_TRIAL} version 4 is served on every replica.")
    assert played.ended == {ON_TRIAL: "promoted"}
    assert page.locator(".head .tag >> text=canary").count() == 0
    page.wait_for_selector(".head >> text=New version")


def test_a_new_version_is_submitted_as_a_canary_or_in_the_place_of_the_current_one(opened: Open) -> None:
    played, tab = opened()
    page = tab.enter(ADMIN_KEY, "market/finance-fiqa_sa")
    page.click(".head >> text=New version")
    page.set_input_files("dialog input[type=file]", ZIP)
    page.click("dialog button[type=submit] >> text=Replace")
    page.wait_for_selector("text=finance-fiqa_sa is served on every replica.")
    page.click("dialog >> text=Close")
    page.click(".head >> text=New version")
    page.set_input_files("dialog input[type=file]", ZIP)
    for wrong in ("0", "-3", "100"):
        page.fill("dialog input[type=number]", wrong)
        page.click("dialog button[type=submit]")
        assert page.evaluate("document.querySelector('dialog input[type=number]').matches(':invalid')"), wrong
    page.fill("dialog input[type=number]", "7")
    page.click("dialog button[type=submit] >> text=Begin the canary")
    page.wait_for_selector("text=Its canary answers 7 % of the requests for which finance-fiqa_sa is chosen.")
    assert played.began_canaries == [("finance-fiqa_sa", None), ("finance-fiqa_sa", "0.07")]
    page.click("dialog >> text=Close")
    page.wait_for_selector(".head .tag >> text=canary 7 %")


def test_a_submission_shows_what_the_stack_does_with_it(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(ADMIN_KEY, "market")
    page.click("text=Submit a learnware")
    page.set_input_files("dialog input[type=file]", ZIP)
    page.click("dialog button[type=submit]")
    page.wait_for_selector(".steps .current >> text=Try and measure")
    assert page.locator(".steps .passed").count() == 2
    page.wait_for_selector("text=acme/new is served on every replica.")
    assert page.locator(".steps .passed").count() == 5
    page.click("dialog >> text=Close")
    page.wait_for_selector(".list >> text=acme/new")


def test_a_refused_submission_says_why(opened: Open) -> None:
    played, tab = opened()
    played.refuses_uploads = True
    page = tab.enter(ADMIN_KEY, "market")
    page.click("text=Submit a learnware")
    page.set_input_files("dialog input[type=file]", ZIP)
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog >> text=its answers to its own examples repeat themselves")
    assert page.locator(".steps .failed").count() == 1
    assert page.locator(".steps .passed").count() == 2


def test_a_hostile_learnware_stays_text(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(page=HOSTILE_PAGE)
    page.wait_for_selector(".sheet")
    page.click("summary >> text=Examples")
    assert HOSTILE_TEXT in page.evaluate("document.querySelector('main').textContent")
    tab.go("market")
    page.wait_for_selector(".list tbody tr")
    assert HOSTILE_TEXT in page.evaluate("document.querySelector('.list').textContent")
    tab.go("try")
    tab.ask("hostile")
    assert HOSTILE_TEXT in page.evaluate("document.querySelector('.answer').textContent")
    for place in ("try", "market", HOSTILE_PAGE, "evaluations"):
        tab.go(place)
        page.wait_for_timeout(200)
        assert page.evaluate("window.owned") is None
        assert page.locator("main img, main script, main a[href^='javascript']").count() == 0
        loose = page.evaluate(
            r"""() => [...document.querySelectorAll("main *")].filter((one) =>
                [...one.childNodes].some((node) => node.nodeType === 3 && node.data.includes("\u202e")) &&
                !/isolate|plaintext/.test(getComputedStyle(one).unicodeBidi)).map((one) => one.outerHTML)"""
        )
        assert loose == [], "marks of direction reach beyond their own text"

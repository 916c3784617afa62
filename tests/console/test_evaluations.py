"""The page *Evaluations*: models compared, canaries on trial, and what the admin key changes of them."""

from typing import TYPE_CHECKING

import pytest

from tests.console.browser import Open, serious_findings, until
from tests.console.made_answers import HOSTILE_ID, HOSTILE_TEXT, ON_TRIAL
from tests.console.stub_stack import ADMIN_KEY, USER_KEY

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.extra, pytest.mark.slow]


def shown_rate(page: "Page", model: str) -> tuple[str, list[float]]:
    """What the bar of a model's row says, and the ends of its interval in its own hundredths."""
    bar = page.locator(f".compared tbody tr:has(th:has-text('{model}')) svg.interval").first
    ends = bar.evaluate(
        "(one) => { const { x, width } = one.querySelector('.between'); "
        "return [x.baseVal.value, x.baseVal.value + width.baseVal.value]; }"
    )
    return bar.get_attribute("aria-label") or "", [round(end, 3) for end in ends]


def test_comparisons_show_win_rates_with_their_intervals(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(page="evaluations")
    page.wait_for_selector(".compared tbody tr")
    assert page.get_attribute("nav a[href='#/evaluations']", "aria-current") == "page"
    assert shown_rate(page, "mathematics-gsm8k_first_operation") == ("Win rate 67 %, 58 to 74 %", [58, 74])
    assert shown_rate(page, "finance-tfns") == ("Win rate 18 %, 9 to 31 %", [9, 31])
    tones = {
        model: page.locator(f".compared tr:has(th:has-text('{model}')) svg.interval").first.get_attribute("class")
        for model in ("mathematics-gsm8k_first_operation", "finance-tfns", f"{ON_TRIAL}@canary")
    }
    assert list(tones.values()) == ["interval better", "interval worse", "interval "]
    row = page.inner_text(".compared tr:has(th:has-text('mathematics-gsm8k_first_operation'))")
    for text in ("mathematics-svamp_operation", "70 / 20 / 30", "24 · 61", "840 ms · 1.91 s", "judge", "2e2e2e2e2e2e"):
        assert text in row, text
    assert "14 / 3 / 14" in page.inner_text(".compared tr:has(td:has-text('feedback'))")  # shares of pairs, rounded
    assert "NaN" not in page.inner_text("main")
    assert "Judge: a-large-model. 3 pairs of answers wait. 1 could not be judged." in page.inner_text("main")


def test_filters_are_sent_and_an_empty_page_says_how_to_fill_it(opened: Open) -> None:
    played, tab = opened()
    page = tab.enter(page="evaluations")
    page.wait_for_selector(".compared tbody tr")
    page.fill("label:has-text('Learnware') input", "finance-tfns")
    until(page, "document.querySelectorAll('.compared tbody tr').length === 1")
    assert page.locator(".trial").count() == 0
    page.fill("label:has-text('Learnware') input", "")
    until(page, "document.querySelectorAll('.compared tbody tr').length === 5")
    page.select_option("label:has-text('Time') select", "Last hour")
    page.wait_for_selector("text=Nothing fits these filters")
    page.select_option("label:has-text('Time') select", "All that is kept")
    page.wait_for_selector(".compared")
    played.compares = False
    page.click("text=Refresh")
    page.wait_for_selector("text=Nothing has been compared yet")
    assert "shadow.share" in page.inner_text("main")
    assert "No model judges" in page.inner_text("main")
    assert serious_findings(page) == []


def test_the_admin_key_promotes_and_rolls_back(opened: Open) -> None:
    played, tab = opened(stub={"keys": True})
    page = tab.enter(ADMIN_KEY, "evaluations")
    trial = page.locator(".trial").first
    trial.wait_for()
    said = trial.inner_text()
    for text in (
        ON_TRIAL,
        "version c4c4c4c4c4c4",
        "running",
        "5 %",
        "212",
        "88 comparisons do not tell it",
        "by a judge",
    ):
        assert text in said, text
    means = [row.split("\t") for row in trial.locator("table tbody").inner_text().splitlines()]
    assert means == [["Feedback", ".750 of 12", ".710 of 201"], ["Failed answers", "0.9 % of 212", "0.0 % of 4,031"]]
    assert trial.locator("svg.interval").get_attribute("aria-label") == "Win rate 52 %, 41 to 63 %"
    ended = page.locator(".trial").nth(1)
    assert ended.locator("button").count() == 0
    assert "rolled back" in ended.inner_text()
    assert "none" in ended.locator("tr:has-text('Feedback')").inner_text()
    trial.locator("text=Roll back").click()
    assert page.is_disabled("dialog button[type=submit]")
    page.fill("dialog textarea", "it answers in riddles")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("text=By hand: it answers in riddles.")
    assert played.ended == {ON_TRIAL: "it answers in riddles"}
    assert f"The canary of {ON_TRIAL} is gone; version 2 answers alone." in page.inner_text("main [role=status]")
    assert page.locator(".trial button").count() == 0


def test_a_tenant_sees_its_own_comparisons_and_no_buttons(opened: Open) -> None:
    _, tab = opened(stub={"keys": True})
    page = tab.enter(USER_KEY, "evaluations")
    page.wait_for_selector(".compared tbody tr")
    assert page.locator(".compared tbody tr").count() == 1
    assert "of alice’s requests" in page.inner_text(".head")
    assert "the admin key shows them" in page.inner_text("main")
    (trial,) = page.locator(".trial").all_inner_texts()
    assert "running" in trial
    assert "5 %" in trial
    assert "Answers" not in trial
    assert page.locator("main button:visible").all_inner_texts() == ["Refresh"]


def test_hostile_texts_of_evaluations_stay_text(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(page="evaluations")
    page.wait_for_selector(".trial")
    assert page.inner_text(f".trial[aria-label='Canary of {HOSTILE_ID}'] p") == HOSTILE_TEXT
    row = page.locator(f".compared tr:has(th:has-text('{HOSTILE_ID}'))")
    assert (row.text_content() or "").count(HOSTILE_TEXT) == 3  # the model beside, the source and the kind
    assert page.evaluate("window.owned") is None
    assert page.locator("main img, main script").count() == 0


def test_a_failure_is_said_and_tried_again(opened: Open) -> None:
    played, tab = opened(allowed="503", stub={"evaluations": False})
    page = tab.enter(page="evaluations")
    page.wait_for_selector("main [role=alert] >> text=The log of decisions cannot be read.")
    played.evaluations_on = True
    page.click("text=Try again")
    page.wait_for_selector(".compared")

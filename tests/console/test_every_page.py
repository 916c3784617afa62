"""What holds for every page: accessibility, small screens, the keyboard, both colour schemes."""

import re
from typing import TYPE_CHECKING

import pytest

from tests.console.browser import PAGES, Open, overflow, serious_findings
from tests.console.made_answers import BASE, HOSTILE_ID, ON_TRIAL
from tests.console.stub_stack import ADMIN_KEY

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.extra, pytest.mark.slow]

QUESTION = "A shop packs 12 boxes of 8 pencils. Which operation comes first?"
HOSTILE_PAGE = f"market/{HOSTILE_ID.replace('/', '%2F')}"
FOCUS_RING = """() => {
    const style = getComputedStyle(document.activeElement);
    return [style.outlineStyle, parseFloat(style.outlineWidth)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Open, scheme: str) -> None:
    _, tab = opened(color_scheme=scheme, reduced_motion="reduce")
    page = tab.enter(ADMIN_KEY)
    findings = {}
    page.wait_for_selector(".examples li")
    findings["welcome"] = serious_findings(page)
    tab.ask(QUESTION)
    page.select_option(".answer-with select", BASE)
    page.wait_for_selector(".answer:nth-child(2)[aria-busy=false]")
    page.click(".answer .verdict.right")
    page.wait_for_selector("text=Kept with")
    findings["try"] = serious_findings(page)
    tab.go("market")
    page.wait_for_selector(".list tbody tr")
    findings["market"] = serious_findings(page)
    page.click("text=Submit a learnware")
    findings["submit"] = serious_findings(page)
    page.keyboard.press("Escape")
    for place, awaited in (
        (HOSTILE_PAGE, ".sheet"),
        ("live", ".slots"),
        ("decisions", ".list"),
        ("decisions/req-0000", ".sheet"),
        ("evaluations", ".list"),
        (f"market/{ON_TRIAL}", ".sheet"),
    ):
        tab.go(place)
        page.wait_for_selector(awaited)
        if place.startswith("decisions/"):
            page.click("text=Replay against")
            page.wait_for_selector("text=another choice")
        page.wait_for_timeout(200)
        findings[place] = serious_findings(page)
    assert {place: found for place, found in findings.items() if found} == {}


def test_a_small_screen_shows_everything_without_scrolling_sideways(opened: Open) -> None:
    _, tab = opened(viewport={"width": 360, "height": 740}, has_touch=True)
    page = tab.enter(ADMIN_KEY)
    wide = {}
    page.wait_for_selector(".examples li")
    wide["welcome"] = overflow(page)
    tab.ask("hostile " + "x" * 300)
    page.select_option(".answer-with select", BASE)
    page.wait_for_selector(".answer:nth-child(2)[aria-busy=false]")
    wide["compare"] = overflow(page)
    for place, awaited in (
        ("market", ".list"),
        (HOSTILE_PAGE, ".sheet"),
        ("live", ".slots"),
        ("decisions", ".list"),
        ("decisions/req-0000", ".sheet"),
        ("evaluations", ".list"),
        (f"market/{ON_TRIAL}", ".sheet"),
    ):
        tab.go(place)
        page.wait_for_selector(awaited)
        page.wait_for_timeout(150)
        wide[place] = overflow(page)
    assert {place: by for place, by in wide.items() if by > 0} == {}
    for name in PAGES:
        box = page.locator(f"nav a[href='#/{name}']").bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert box["x"] + box["width"] <= 360
    tab.go("try")
    send, nav = page.locator(".composer button.primary").bounding_box(), page.locator("nav").bounding_box()
    assert send is not None
    assert nav is not None
    assert send["y"] + send["height"] <= nav["y"]


def test_the_header_fits_between_a_phone_and_a_desk(opened: Open) -> None:
    _, tab = opened(stub={"keys": True}, viewport={"width": 710, "height": 500})
    page = tab.enter(ADMIN_KEY, "evaluations")
    page.wait_for_selector(".list")
    assert overflow(page) <= 0
    lines = page.evaluate(
        """() => [...document.querySelectorAll("nav a")].map((one) => {
            const name = document.createRange();
            name.selectNodeContents(one.lastChild);
            return new Set([...name.getClientRects()].map((line) => Math.round(line.top))).size;
        })"""
    )
    assert lines == [1] * len(PAGES)
    corner, nav = page.locator(".corner").bounding_box(), page.locator("nav").bounding_box()
    assert corner is not None
    assert nav is not None
    assert nav["x"] + nav["width"] <= corner["x"]
    assert corner["x"] + corner["width"] <= 710


def focused(page: "Page") -> str:
    name: str = page.evaluate(
        "document.activeElement.textContent || document.activeElement.id || document.activeElement.tagName"
    )
    return name


def test_the_keyboard_is_enough(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(ADMIN_KEY)
    page.wait_for_selector(".examples li")
    page.keyboard.press("Tab")
    assert focused(page) == "To the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.closest('.examples')")
    assert page.evaluate(FOCUS_RING) == ["solid", 2]
    while focused(page) != "prompt":
        page.keyboard.press("Tab")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer[aria-busy=false]")
    assert focused(page) == "prompt"
    while focused(page) != "Right":
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Kept with the decision")
    while focused(page) != "Market":
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".list tbody tr")
    while focused(page) != "Submit a learnware":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog")
    assert page.evaluate("!!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert focused(page) == "Submit a learnware"


def test_dark_and_light_follow_the_system_until_they_are_chosen(opened: Open) -> None:
    _, tab = opened(color_scheme="dark")
    page = tab.enter()

    def darkness() -> bool:
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return max(int(part) for part in re.findall(r"\d+", colour)[:3]) < 80

    assert darkness()
    page.emulate_media(color_scheme="light")
    assert not darkness()
    page.click(".theme")  # light
    page.emulate_media(color_scheme="dark")
    assert not darkness()
    page.click(".theme")  # dark
    page.emulate_media(color_scheme="light")
    assert darkness()
    page.reload()
    page.wait_for_selector(".shell")
    assert darkness()


def test_an_address_that_leads_nowhere_is_said(opened: Open) -> None:
    _, tab = opened(allowed="404")
    page = tab.enter(page="market/no-such")
    page.wait_for_selector("text=There is no learnware 'no-such' in the market.")
    tab.go("decisions/no-such")
    page.wait_for_selector("text=There is no decision of this id of yours.")
    tab.go("%E0%A4%A")  # not UTF-8
    page.wait_for_selector("#prompt")

"""The console in a real browser: each page, with a stack that the test plays."""

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.console.browser import INTERACTIVE_S, PAGES, Watched, launched, overflow, serious_findings, until
from tests.console.made_answers import BASE, HOSTILE_ID, HOSTILE_TEXT
from tests.console.stub_stack import ADMIN_KEY, ANSWER, USER_KEY, StubStack, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.extra, pytest.mark.slow]

QUESTION = "A shop packs 12 boxes of 8 pencils. Which operation comes first?"
HOSTILE_PAGE = f"market/{HOSTILE_ID.replace('/', '%2F')}"
ANSWERED = "mathematics-gsm8k_first_operation"
ZIP = {"name": "new.zip", "mimeType": "application/zip", "buffer": b"PK" * 5000}

NAMES_IN_SLOTS = "[...document.querySelectorAll('.slots [data-adapter]')].map((one) => one.innerText)"
SET_HIDDEN = """(hidden) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""
FOCUS_RING = """() => {
    const style = getComputedStyle(document.activeElement);
    return [style.outlineStyle, parseFloat(style.outlineWidth)];
}"""

Open = Callable[..., tuple[StubStack, Watched]]


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


def text_of(page: "Page", selector: str) -> str:
    return page.inner_text(selector)


def filled(bar: bytes) -> float:
    """The share of a bar's length that has the colour of its beginning, from a picture of it: the browser draws it."""
    with Image.open(io.BytesIO(bar)) as image:
        row = [image.convert("RGB").getpixel((x, image.height // 2)) for x in range(image.width)]
        edges = {image.convert("RGB").getpixel((image.width // 4, y)) for y in (2, image.height - 3)}
    assert edges == {row[image.width // 4]}, "it is not filled from top to bottom"
    return sum(max(abs(one - other) for one, other in zip(pixel, row[4], strict=True)) < 8 for pixel in row) / len(row)


# The first page


def test_the_first_page_takes_what_is_typed_within_two_seconds(opened: Open) -> None:
    took = []
    for _ in range(3):  # each time a browser profile that has kept nothing; the machine may be busy with other tests
        _, tab = opened()
        began = time.monotonic()
        tab.page.goto(f"{tab.url}/console/", wait_until="commit")
        tab.page.fill("#prompt", "a")
        assert tab.page.is_enabled(".composer button[type=submit]")
        took.append(time.monotonic() - began)
        tab.page.wait_for_selector(".examples li")
    assert min(took) <= INTERACTIVE_S


def test_a_key_is_asked_for_and_stays_in_the_tab(opened: Open) -> None:
    _, tab = opened(allowed="401", stub={"keys": True})
    page = tab.page
    page.goto(f"{tab.url}/console/")
    page.fill("input[type=password]", "lw-wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The key does not hold")
    page.fill("input[type=password]", USER_KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector(".shell")
    assert "alice" in text_of(page, ".corner")
    assert page.evaluate("Object.values(sessionStorage)") == [USER_KEY]
    assert (
        page.evaluate("JSON.stringify([Object.values(localStorage), document.cookie, location.href])").find(USER_KEY)
        < 0
    )
    page.reload()
    page.wait_for_selector(".shell")
    other = tab.tab()
    other.goto(f"{tab.url}/console/")
    other.wait_for_selector("input[type=password]")
    page.click(".corner button")
    page.click("text=Forget the key")
    page.wait_for_selector("main.entry input[type=password]")
    assert page.evaluate("sessionStorage.length") == 0


# Try


def test_an_answer_streams_and_says_who_and_why(opened: Open) -> None:
    played, tab = opened()
    played.pause_s = 0.2
    page = tab.enter()
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.answer .text')?.textContent.length > 5")
    part = text_of(page, ".answer .text").strip()
    assert part
    assert len(part) < len(ANSWER)
    page.wait_for_selector(".answer[aria-busy=false]")
    assert text_of(page, ".answer .text").strip() == ANSWER
    head = text_of(page, ".answer header")
    assert ANSWERED in head
    assert "matched" in head
    why = text_of(page, ".why")
    for figure in (".742", ".311", ".873", ".500", "91 %", "1.2 ms", "a1b2c3d4", "device", "host", "disk", QUESTION):
        assert figure in why, figure
    assert page.locator(".why tr.chosen").count() == 1
    meter = page.locator(f".why meter[aria-label='Expected quality of {ANSWERED}']")
    assert float(meter.get_attribute("value") or 0) == 0.742
    assert 0.7 < filled(meter.screenshot()) < 0.78
    times = text_of(page, ".answer .times")
    assert re.search(r"first token\s+\d+ ms", times)
    assert re.search(r"tokens\s+\d+", times)
    assert played.asked[0]["model"] == "auto"
    assert played.asked[0]["messages"] == [{"role": "user", "content": QUESTION}]


def test_nothing_beside_a_streaming_answer_moves(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter()
    tab.ask(QUESTION)
    page.select_option(".answer-with select", BASE)
    places = set()
    while page.locator(".answer[aria-busy=true]").count() or not places:
        places.add(
            page.evaluate(
                """() => JSON.stringify([".user", ".answer header", ".why h3", ".composer textarea"].map((selector) => {
                    const box = document.querySelector(selector).getBoundingClientRect();
                    return [Math.round(box.x), Math.round(box.y)];
                }))"""
            )
        )
        page.wait_for_timeout(20)
    assert len(places) <= 2  # the second answer takes its place, and that is all


def test_another_candidate_answers_beside_and_the_talk_goes_on_with_either(opened: Open) -> None:
    played, tab = opened()
    page = tab.enter()
    tab.ask(QUESTION)
    offered = page.locator(".answer-with option").all_inner_texts()
    assert {"mathematics-svamp_operation", "finance-tfns", f"{BASE} (base)"} <= set(offered)
    page.select_option(".answer-with select", BASE)
    page.wait_for_selector(".answer:nth-child(2)[aria-busy=false]")
    boxes = [one.bounding_box() for one in page.locator(".answer").all()]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[1]["x"] > boxes[0]["x"]
    page.click(".answer:nth-child(2) >> text=Go on with this")
    tab.ask("And then?")
    assert [one["content"] for one in played.asked[-1]["messages"]] == [
        QUESTION,
        "Pencils are sold in boxes.",
        "And then?",
    ]


def test_right_and_wrong_are_sent_with_the_id_of_the_answer(opened: Open) -> None:
    played, tab = opened()
    page = tab.enter()
    tab.ask(QUESTION)
    page.click(".answer .verdict.wrong")
    page.wait_for_selector("text=Kept with the decision")
    assert page.get_attribute(".answer .verdict.wrong", "aria-pressed") == "true"
    (piece,) = played.feedback
    assert piece["label"] == "wrong"
    assert piece["id"] == text_of(page, ".why a[href*=decisions]")


def test_feedback_that_is_not_taken_is_said(opened: Open) -> None:
    _, tab = opened(allowed="404", stub={"feedback": False})
    page = tab.enter()
    tab.ask(QUESTION)
    page.click(".answer .verdict.right")
    page.wait_for_selector("text=does not know this answer")
    assert page.get_attribute(".answer .verdict.right", "aria-pressed") == "false"


def test_an_error_is_shown_in_the_servers_words_and_a_stream_can_be_stopped(opened: Open) -> None:
    played, tab = opened(allowed="404")
    page = tab.enter()
    played.learnwares.pop("finance-tfns")
    played.pause_s = 0.3
    page.select_option(".composer select", "finance-tfns")
    tab.ask(QUESTION)
    assert "There is no model 'finance-tfns'." in text_of(page, ".answer [role=alert]")
    page.select_option(".composer select", "auto")
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.exchange:last-child .text')?.textContent.length > 5")
    page.click(".composer >> text=Stop")
    page.wait_for_selector("text=Stopped.")
    assert len(text_of(page, ".exchange:last-child .text").strip()) < len(ANSWER)


# Market


def test_the_market_is_searched_and_a_learnware_shown_whole(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(page="market")
    page.wait_for_selector(".list tbody tr")
    page.fill("input[type=search]", "financial tweet sentiment")
    until(page, "document.querySelectorAll('.list tbody tr').length === 1")
    page.click(".list tbody a")
    page.wait_for_selector(".sheet")
    shown = text_of(page, "main")
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
    for place in ("try", "market", HOSTILE_PAGE):
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


# Live


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
    shown = text_of(page, "main")
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
    assert "connection" in text_of(page, ".answer [role=alert]")
    tab.context.set_offline(False)
    until(page, "document.querySelector('.banner').textContent === ''")
    calls = played.live_calls
    tab.go("live")
    page.wait_for_timeout(2500)
    assert played.live_calls > calls
    assert page.locator(".live-page.stale").count() == 0


# Decisions


def test_decisions_are_filtered_shown_and_replayed(opened: Open) -> None:
    _, tab = opened()
    page = tab.enter(page="decisions")
    page.wait_for_selector(".list tbody tr")
    assert page.locator(".list tbody tr").count() == 50
    page.click("text=Older ones")
    until(page, "document.querySelectorAll('.list tbody tr').length === 60")
    page.fill("label:has-text('Status') input", "429")
    until(page, "document.querySelectorAll('.list tbody tr').length === 10")
    assert "nobody" in text_of(page, ".list tbody tr")
    page.fill("label:has-text('Status') input", "418")
    page.wait_for_selector("text=No decision fits these filters")
    page.click(".filters >> text=Clear")
    page.wait_for_selector(".list tbody tr")
    page.click(".list tbody tr:nth-child(2) a")
    page.wait_for_selector(".sheet")
    shown = text_of(page, "main")
    for text in ("req-0001", "base:better", ".742", ".311", "bob", "wrong", "4bf92f3577b34da6a3ce929d0e0e4736"):
        assert text in shown, text
    page.click("text=Replay against")
    page.wait_for_selector("text=another choice")
    assert "healthcare-medqa_usmle is expected to answer better" in text_of(page, "main")


# Everywhere


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

"""The page *Try*: an answer that streams, who answered and why, another one beside, and what is said of it."""

import io
import re
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.console.browser import Open, until
from tests.console.made_answers import BASE
from tests.console.stub_stack import ANSWER

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.extra, pytest.mark.slow]

QUESTION = "A shop packs 12 boxes of 8 pencils. Which operation comes first?"
ANSWERED = "mathematics-gsm8k_first_operation"


def filled(bar: bytes) -> float:
    """The share of a bar's length that has the colour of its beginning, from a picture of it: the browser draws it."""
    with Image.open(io.BytesIO(bar)) as image:
        row = [image.convert("RGB").getpixel((x, image.height // 2)) for x in range(image.width)]
        edges = {image.convert("RGB").getpixel((image.width // 4, y)) for y in (2, image.height - 3)}
    assert edges == {row[image.width // 4]}, "it is not filled from top to bottom"
    return sum(max(abs(one - other) for one, other in zip(pixel, row[4], strict=True)) < 8 for pixel in row) / len(row)


def test_an_answer_streams_and_says_who_and_why(opened: Open) -> None:
    played, tab = opened()
    played.pause_s = 0.2
    page = tab.enter()
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.answer .text')?.textContent.length > 5")
    part = page.inner_text(".answer .text").strip()
    assert part
    assert len(part) < len(ANSWER)
    page.wait_for_selector(".answer[aria-busy=false]")
    assert page.inner_text(".answer .text").strip() == ANSWER
    head = page.inner_text(".answer header")
    assert ANSWERED in head
    assert "matched" in head
    why = page.inner_text(".why")
    for figure in (".742", ".311", ".873", ".500", "91 %", "1.2 ms", "a1b2c3d4", "device", "host", "disk", QUESTION):
        assert figure in why, figure
    assert page.locator(".why tr.chosen").count() == 1
    meter = page.locator(f".why meter[aria-label='Expected quality of {ANSWERED}']")
    assert float(meter.get_attribute("value") or 0) == 0.742
    assert 0.7 < filled(meter.screenshot()) < 0.78
    times = page.inner_text(".answer .times")
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
    assert piece["id"] == page.inner_text(".why a[href*=decisions]")


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
    assert "There is no model 'finance-tfns'." in page.inner_text(".answer [role=alert]")
    page.select_option(".composer select", "auto")
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.exchange:last-child .text')?.textContent.length > 5")
    page.click(".composer >> text=Stop")
    page.wait_for_selector("text=Stopped.")
    assert len(page.inner_text(".exchange:last-child .text").strip()) < len(ANSWER)

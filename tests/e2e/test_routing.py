"""The main job: a plain request with `model: "auto"` is answered by the learnware that fits it."""

import json
import time

import httpx
import pytest

from tests.e2e.support import BASE, QUESTIONS, Question, Stack, chat

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.domain)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_auto_is_answered_by_a_learnware_of_the_questions_domain(http: httpx.Client, question: Question, stream: bool):
    response = chat(http, question.text, stream=stream)
    assert response.status_code == 200, response.text
    learnware = response.headers["x-learnware"]
    assert learnware.startswith(question.domain)
    assert response.headers["x-learnware-reason"] == "matched"
    assert 0 < float(response.headers["x-learnware-score"]) <= 1
    assert 0 < float(response.headers["x-learnware-route-ms"]) < 50
    if stream:
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        assert json.loads(events[0])["model"] == learnware
    else:
        assert response.json()["model"] == learnware


def test_the_very_first_request_was_routed(stack: Stack):
    assert stack.reason_of_first_request == "matched"


def test_small_talk_goes_to_the_base_model(http: httpx.Client):
    response = chat(http, "Write a short poem about autumn leaves for my grandmother.")
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == (BASE, "base:low-confidence")
    assert response.json()["model"] == BASE


def test_a_learnware_or_the_base_can_be_named(http: httpx.Client):
    for model in ("finance-tfns", BASE):
        response = chat(http, QUESTIONS[2].text, model=model)
        assert response.json()["model"] == model
        assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == (model, "named")


def test_auto_gives_the_very_answer_of_the_named_learnware(http: httpx.Client):
    routed = chat(http, QUESTIONS[0].text, logprobs=True)
    named = chat(http, QUESTIONS[0].text, model=routed.headers["x-learnware"], logprobs=True)
    base = chat(http, QUESTIONS[0].text, model=BASE, logprobs=True)
    assert routed.json()["choices"] == named.json()["choices"]
    assert routed.json()["choices"][0]["logprobs"] != base.json()["choices"][0]["logprobs"]


def test_a_conversation_stays_until_its_topic_changes(http: httpx.Client):
    messages = [
        {"role": "user", "content": QUESTIONS[0].text},
        {"role": "assistant", "content": "negative"},
        {"role": "user", "content": "Why?"},
    ]
    first = chat(http, QUESTIONS[0].text).headers["x-learnware"]
    explanation = chat(http, "", messages=messages)  # a learnware that labels cannot give one
    assert (explanation.headers["x-learnware"], explanation.headers["x-learnware-reason"]) == (BASE, "base:explanation")
    messages[-1]["content"] = "And the next one?"
    follow_up = chat(http, "", messages=messages)
    assert (follow_up.headers["x-learnware"], follow_up.headers["x-learnware-reason"]) == (first, "session")
    messages[-1]["content"] = QUESTIONS[2].text
    assert chat(http, "", messages=messages).headers["x-learnware"].startswith("mathematics")


def test_a_completion_prompt_and_token_ids_are_routed_on(http: httpx.Client):
    text = QUESTIONS[2].text
    response = http.post("/v1/completions", json={"model": "auto", "prompt": text, "max_tokens": 4})
    assert response.headers["x-learnware"].startswith("mathematics")
    assert response.json()["model"] == response.headers["x-learnware"]
    ids = http.post("/tokenize", json={"model": "auto", "prompt": text}).json()["tokens"]
    response = http.post("/v1/completions", json={"model": "auto", "prompt": ids, "max_tokens": 4})
    assert response.headers["x-learnware"].startswith("mathematics")


def test_prompts_of_one_request_share_a_learnware_or_get_the_base(http: httpx.Client):
    texts = [QUESTIONS[0].text, QUESTIONS[0].text.replace("2.1", "2.2")]
    learnware = chat(http, texts[0]).headers["x-learnware"]
    mixed = (BASE, "base:mixed-prompts")

    def answered(response: httpx.Response) -> tuple[str, str]:
        assert response.status_code == 200, response.text
        assert len(response.json()["choices"]) == 2
        return response.headers["x-learnware"], response.headers["x-learnware-reason"]

    def complete(prompts: list[str]) -> tuple[str, str]:
        return answered(http.post("/v1/completions", json={"model": "auto", "prompt": prompts, "max_tokens": 4}))

    def batch(prompts: list[str]) -> tuple[str, str]:
        body = {"model": "auto", "messages": [[{"role": "user", "content": one}] for one in prompts], "max_tokens": 4}
        return answered(http.post("/v1/chat/completions/batch", json=body))

    for ask in (complete, batch):
        assert ask(texts) == (learnware, "matched")
        assert ask([texts[0], QUESTIONS[2].text]) == mixed


def test_route_explains_without_generating_and_leaves_no_trace(http: httpx.Client):
    before = settled_metrics(http)
    body = {"model": "auto", "messages": [{"role": "user", "content": QUESTIONS[1].text}]}
    answer = http.post("/v1/route", json=body).json()
    assert answer["learnware"].startswith("healthcare")
    assert answer["reason"] == "matched"
    expected = [candidate["expected"] for candidate in answer["candidates"]]
    assert expected == sorted(expected, reverse=True)
    assert len(expected) > 1
    assert expected[0] > answer["base"]["expected"]
    assert answer["match"] == answer["candidates"][0]["score"] >= answer["min_match"]
    assert answer["tasks"][0]["task"] == answer["learnware"]
    assert answer["ask"] == [QUESTIONS[1].text.partition("mg/dL. ")[2].partition("\n")[0]]
    assert answer["learnware"] in answer["explanation"]
    assert answer["candidates"][0]["learnware"] == answer["learnware"]
    tiers = answer["candidates"][0]["tiers"]
    assert tiers[answer["replica"]["id"]] == answer["replica"]["tier"]
    assert set(tiers) == set(answer["replica"]["requests"])
    for path, sent in (("/v1/route", {"messages": body["messages"]}), ("/tokenize", {"model": "auto", "prompt": "x"})):
        assert http.post(path, json=sent).status_code == 200
    assert traces(http.get("/metrics").text) == traces(before)


def settled_metrics(http: httpx.Client) -> str:
    """The metrics, once what earlier requests leave in them has arrived."""
    deadline = time.monotonic() + 10
    before, after = "", http.get("/metrics").text
    while traces(before) != traces(after) and time.monotonic() < deadline:
        time.sleep(0.5)
        before, after = after, http.get("/metrics").text
    return after


def traces(text: str) -> dict[str, float]:
    """What requests leave in the metrics of routers, replicas and engines: all their counters and histograms."""
    samples = (line.rpartition(" ") for line in text.splitlines() if line.startswith(("learnware_", "vllm:")))
    return {
        name: float(value)
        for name, _, value in samples
        if name.partition("{")[0].endswith(("_total", "_count", "_sum", "_bucket")) and "_scrape_" not in name
    }


def test_models_lists_auto_the_base_and_every_learnware(http: httpx.Client):
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert {"auto", BASE, "finance-tfns", "healthcare-pubmedqa", "mathematics-aqua_rat"} <= set(cards)
    assert len(cards) == 17
    assert cards[BASE]["root"] == BASE
    assert cards[BASE]["parent"] is None
    for name, card in cards.items():
        assert card["object"] == "model"
        assert name == BASE or card["parent"] == BASE
        assert card["root"]
    assert http.get("/v1/models/finance-tfns").json()["id"] == "finance-tfns"
    assert http.get("/v1/models/none").status_code == 404


def test_the_request_id_comes_back(http: httpx.Client):
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    response = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"

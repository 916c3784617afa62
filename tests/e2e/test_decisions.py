"""The log of decisions on the running stack: what a routed request leaves, who sees it, feedback, replay."""

import json
import time
from typing import Any

import httpx
import pytest

from tests.e2e.support import ADMIN_KEY, OTHER_KEY, QUESTIONS, Stack, chat

pytestmark = [pytest.mark.e2e]

ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
OTHER = {"authorization": f"Bearer {OTHER_KEY}"}


def record_of(http: httpx.Client, request_id: str, **headers: str) -> dict[str, Any]:
    """The whole record, which comes up to a second after the answer's end."""
    deadline = time.monotonic() + 10
    while True:
        answer = http.get(f"/v1/decisions/{request_id}", headers=headers or None)
        if answer.status_code == 200 and (answer.json()["choice"] or not answer.json()["decision"]):
            return dict(answer.json())
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)


@pytest.fixture(scope="module")
def answered(http: httpx.Client) -> httpx.Response:
    answer = chat(http, QUESTIONS[0].text)
    assert answer.status_code == 200
    return answer


def test_a_routed_request_leaves_a_record_with_all_that_is_known(http: httpx.Client, answered: httpx.Response) -> None:
    record = record_of(http, answered.headers["x-request-id"])
    assert record["learnware"] == answered.headers["x-learnware"]
    assert record["reason"] == answered.headers["x-learnware-reason"]
    assert record["version"].startswith(f"{record['learnware']}@")
    usage = answered.json()["usage"]
    assert record["tokens"] == {"prompt": usage["prompt_tokens"], "generated": usage["completion_tokens"]}
    assert (record["tenant"], record["model"], record["path"]) == ("user", "auto", "/v1/chat/completions")
    assert (record["status"], record["stream"], record["complete"]) == (200, False, True)
    assert record["tier"] in ("device", "host", "disk")
    assert 0 < record["ttft_s"] <= record["seconds"]
    assert record["queue_s"] is not None
    assert record["route_ms"] > 0
    assert record["replica"]
    choice = record["choice"]
    assert record["learnware"] in [one["learnware"] for one in choice["candidates"]]
    assert choice["tasks"][0]["probability"] > 0.3
    assert (choice["prompts"], choice["turns"]) == (1, 1)
    assert record["vectors"]["vector"]
    assert "text" not in record
    assert QUESTIONS[0].text[:30] not in json.dumps(record)


def test_another_tenant_does_not_see_it_and_the_admin_key_does(http: httpx.Client, answered: httpx.Response) -> None:
    request_id = answered.headers["x-request-id"]
    record_of(http, request_id)
    assert http.get(f"/v1/decisions/{request_id}", headers=OTHER).status_code == 404
    assert http.post(f"/v1/decisions/{request_id}/replay", headers=OTHER).status_code == 404
    feedback = {"id": request_id, "label": "right"}
    assert http.post("/v1/feedback", json=feedback, headers=OTHER).status_code == 404
    others = http.get("/v1/decisions?limit=1000", headers=OTHER).text.splitlines()
    assert {json.loads(line)["tenant"] for line in others} <= {"other"}
    assert record_of(http, request_id, **ADMIN)["tenant"] == "user"


def test_feedback_goes_with_its_decision_at_once(http: httpx.Client) -> None:
    request_id = chat(http, QUESTIONS[1].text, stream=True).headers["x-request-id"]
    answer = http.post("/v1/feedback", json={"id": request_id, "score": 0.25})
    assert answer.status_code == 201, answer.text
    record = record_of(http, request_id)
    assert record["stream"]
    assert [(one["score"], one["tenant"]) for one in record["feedback"]] == [(0.25, "user")]


def test_a_replay_says_the_same_while_the_market_is(http: httpx.Client, answered: httpx.Response) -> None:
    request_id = answered.headers["x-request-id"]
    record = record_of(http, request_id)
    found = http.post(f"/v1/decisions/{request_id}/replay")
    assert found.status_code == 200, found.text
    assert found.json()["then"]["learnware"] == record["choice"]["learnware"]
    if found.json()["choice"]["market"] == record["choice"]["market"]:
        assert not found.json()["differs"], found.json()["why"]


def test_refusals_are_recorded_and_named_requests_have_no_choice(stack: Stack, http: httpx.Client) -> None:
    unknown = chat(http, "Hello", model="no-such-model", max_tokens=1)
    named = chat(http, "Hello", model="finance-tfns", max_tokens=1)
    first, second = (record_of(http, answer.headers["x-request-id"]) for answer in (unknown, named))
    assert (first["status"], first["model"], first["learnware"]) == (404, "no-such-model", None)
    assert (second["status"], second["choice"], second["reason"]) == (200, None, "named")
    listed = http.get("/v1/decisions?status=404&limit=5").text.splitlines()
    assert first["id"] in [json.loads(line)["id"] for line in listed]

"""Learnwares come, change and go while requests run."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from serving.launch.instance import plan
from tests.e2e.learnwares import copy_of, without_effect, zipped
from tests.e2e.support import ADMIN_KEY, BASE, QUESTIONS, Stack, chat

pytestmark = pytest.mark.e2e

ZIP = {"content-type": "application/zip", "authorization": f"Bearer {ADMIN_KEY}"}
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
COPY = "finance-tfns-copy"
LONG = "\n".join(f"Line {number}: net sales grew by {number} % in that year." for number in range(30))
"""Some blocks of the prefix cache."""


def ask(http: httpx.Client, model: str, question: str) -> dict[str, object]:
    """The answer's first choice, as greedy decoding gives it."""
    response = chat(http, f"{LONG}\n{question}", model, logprobs=True)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
    return response.json()["choices"][0]


def text(choice: dict) -> str:
    return choice["message"]["content"]


def first_logprob(choice: dict) -> float:
    return choice["logprobs"]["content"][0]["logprob"]


@pytest.fixture
def traffic(stack: Stack) -> Iterator[list[tuple[int, str]]]:
    """`auto` requests from another thread, all through the test: each one's status and who answered."""
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def work() -> None:
        with stack.client() as client:
            while not stop.is_set():
                response = chat(client, QUESTIONS[len(answers) % 3].text, max_tokens=2)
                answers.append((response.status_code, response.headers.get("x-learnware", response.text)))

    thread = threading.Thread(target=work)
    thread.start()
    yield answers
    stop.set()
    thread.join(60)


@pytest.fixture
def gone_afterwards(http: httpx.Client) -> Iterator[None]:
    yield
    http.delete(f"/v1/learnwares/{COPY}", headers=ADMIN)


def test_a_learnware_comes_is_replaced_and_goes_under_traffic(
    http: httpx.Client, stack: Stack, traffic: list[tuple[int, str]], gone_afterwards: None, tmp_path: Path
):
    first = zipped(copy_of("finance-tfns", tmp_path / "first", COPY))
    second = zipped(copy_of("finance-tfns", tmp_path / "second", COPY, 2, weights_of="mathematics-svamp_operation"))
    assert chat(http, "hi", COPY).status_code == 404

    response = http.post("/v1/learnwares", content=first, headers=ZIP)
    assert response.status_code == 201, response.text
    assert response.json()["served"] is True
    assert chat(http, "hi", COPY).status_code == 200
    for question in (question.text for question in QUESTIONS):
        original, other = (ask(http, name, question) for name in ("finance-tfns", "mathematics-svamp_operation"))
        if text(original) != text(other):
            break
    else:
        pytest.fail("two learnwares give one answer to every question")
    one = ask(http, COPY, question)
    assert text(one) == text(original)
    assert first_logprob(one) == pytest.approx(first_logprob(original), abs=0.1)
    assert COPY in {card["id"] for card in http.get("/v1/models").json()["data"]}

    # A stream that began with the old version ends well; what comes after the answer is the new version's alone.
    body = {
        "model": COPY,
        "messages": [{"role": "user", "content": "Count from one on."}],
        "max_tokens": 60,
        "ignore_eos": True,
        "stream": True,
    }
    with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        begun = next(lines)
        response = http.put(f"/v1/learnwares/{COPY}", content=second, headers=ZIP)
        assert response.status_code == 200, response.text
        assert (response.json()["version"], response.json()["served"]) == (2, True)
        two = ask(http, COPY, question)
        events = [line.removeprefix("data: ") for line in [begun, *lines] if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert {json.loads(event)["model"] for event in events[:-1]} == {COPY}
    assert text(two) == text(other)
    assert first_logprob(two) == pytest.approx(first_logprob(other), abs=0.1)
    again = ask(http, COPY, question)  # from the prefix cache now
    assert text(again) == text(other)

    response = http.delete(f"/v1/learnwares/{COPY}", headers=ADMIN)
    assert (response.status_code, response.json()["state"]) == (200, "removed")
    response = chat(http, "hi", COPY)
    assert response.status_code == 404
    assert "did you mean finance-tfns" in response.json()["error"]["message"]
    assert http.get(f"/v1/learnwares/{COPY}").json()["state"] == "removed"

    count = len(traffic)
    deadline = time.monotonic() + 60
    while len(traffic) < count + 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(traffic) >= count + 3
    assert {status for status, _ in traffic} == {200}


def test_what_changes_nothing_is_found_on_the_engine_and_quarantined(http: httpx.Client, tmp_path: Path):
    folder = without_effect(copy_of("finance-fiqa_sa", tmp_path / "faint", "finance-faint"))
    response = http.post("/v1/learnwares", content=zipped(folder), headers=ZIP)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "it answers as the base model does" in message
    quarantined = http.get("/v1/learnwares", params={"state": "quarantined"}).json()["data"]
    (record,) = [record for record in quarantined if record["id"] == "finance-faint"]
    assert (record["id"], record["reason"]) == ("finance-faint", message.removeprefix("learnware finance-faint: "))
    assert chat(http, "hi", "finance-faint").status_code == 404
    assert chat(http, QUESTIONS[0].text, "finance-fiqa_sa").status_code == 200


def test_the_command_line_reaches_the_running_stack(http: httpx.Client, stack: Stack, tmp_path: Path):
    folder = copy_of("finance-fiqa_sa", tmp_path / "copy", "finance-by-command")

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "serving.cli", "market", *arguments, "--port", str(stack.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "finance-by-command, version 1, is served from now on" in run("submit", str(folder))
    assert chat(http, "hi", "finance-by-command", max_tokens=1).status_code == 200
    run("check")
    assert "finance-by-command, version 1, is served no more\n" in run("remove", "finance-by-command")
    assert chat(http, "hi", "finance-by-command", max_tokens=1).status_code == 404


@contextmanager
def engine_never_idle(stack: Stack) -> Iterator[None]:
    """Two clients ask the base model without a pause, so that no adapter is read before somebody asks for it."""
    body = {"model": BASE, "prompt": "Count from one on.", "ignore_eos": True}
    ended = threading.Event()

    def ask(max_tokens: int) -> None:
        with stack.client(60) as client:
            while not ended.is_set():
                client.post("/v1/completions", json=body | {"max_tokens": max_tokens})

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask, max_tokens) for max_tokens in (70, 110)]
        try:
            yield
        finally:
            ended.set()
            for one in asking:
                one.result()


def test_a_learnware_whose_files_vanish_costs_itself(http: httpx.Client, stack: Stack, tmp_path: Path):
    """Whoever asks for it first finds out."""
    name = "finance-vanishing"
    folder = copy_of("finance-tfns", tmp_path / "vanishing", name)
    command = [sys.executable, "-m", "serving.cli", "market", "submit", str(folder), "--port", str(stack.port)]
    with engine_never_idle(stack):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        sha256 = http.get(f"/v1/learnwares/{name}").json()["sha256"]
        place = plan("127.0.0.1", stack.port).folder / "market" / "objects" / sha256
        (place / "adapter_model.safetensors").unlink()
        response = chat(http, "hi", name, max_tokens=1)
    assert (response.status_code, response.json().get("error", {}).get("code")) == (503, "adapter_unavailable")
    deadline = time.monotonic() + 10
    while http.get(f"/v1/learnwares/{name}").json()["state"] != "quarantined":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 'learnware_unserved{reason="quarantined"' in http.get("/metrics").text
    assert chat(http, QUESTIONS[0].text).status_code == 200


def test_lists_searches_and_refusals(http: httpx.Client, tmp_path: Path):
    listed = http.get("/v1/learnwares").json()
    assert listed["object"] == "list"
    assert len(listed["data"]) == 15
    found = http.get("/v1/learnwares", params={"q": "sentiment", "domain": "finance"}).json()["data"]
    assert {record["id"] for record in found} == {"finance-fiqa_sa", "finance-tfns"}
    shown = http.get("/v1/learnwares/finance-tfns").json()
    assert shown["card"]["tasks"] == ["tfns"]

    def error(response: httpx.Response) -> tuple[int, str]:
        return response.status_code, response.json()["error"]["message"]

    status, message = error(http.get("/v1/learnwares/finance-tfnz"))
    assert status == 404
    assert message.startswith("there is no learnware 'finance-tfnz' in the market; did you mean finance-tfns")
    assert error(http.delete("/v1/learnwares/finance-tfns"))[0] == 401
    assert error(http.post("/v1/learnwares", content=b"x", headers=ZIP | {"authorization": "Bearer other"}))[0] == 401
    assert error(http.post("/v1/learnwares", content=b"no zip", headers=ZIP))[0] == 400
    same = zipped(copy_of("finance-tfns", tmp_path / "same", "finance-tfns"))
    assert error(http.post("/v1/learnwares", content=same, headers=ZIP))[0] == 409
    assert error(http.patch("/v1/learnwares"))[0] == 405
    assert chat(http, QUESTIONS[0].text).headers["x-learnware-reason"] == "matched"


def test_a_canary_gets_its_share_of_the_requests_and_leaves_no_trace(http: httpx.Client, tmp_path: Path):
    question = {"messages": [{"role": "user", "content": QUESTIONS[0].text}]}
    name = http.post("/v1/route", json=question).json()["learnware"]
    version = http.get(f"/v1/learnwares/{name}").json()["version"] + 1
    content = zipped(copy_of(name, tmp_path / "new", name, version, weights_of="mathematics-svamp_operation"))

    def answers(ids: Iterable[str]) -> dict[str, str]:
        """Who answered, by the request's id."""
        body = question | {"model": "auto", "max_tokens": 1}
        return {
            one: http.post("/v1/chat/completions", json=body, headers={"x-request-id": one}).headers["x-learnware"]
            for one in ids
        }

    everyone = [f"canary-{number}" for number in range(16)]
    response = http.put(f"/v1/learnwares/{name}?canary=0.5", content=content, headers=ZIP)
    assert (response.status_code, response.json()["served"]) == (200, True), response.text
    found = answers(everyone)
    drawn = {one for one, who in found.items() if who == f"{name}@canary"}
    assert 2 < len(drawn) < 14
    assert answers(drawn) == dict.fromkeys(drawn, f"{name}@canary")
    named = chat(http, "hi", f"{name}@canary", max_tokens=1)
    assert (named.status_code, named.json()["model"]) == (200, f"{name}@canary")
    listed = [one["id"] for one in http.get("/v1/models").json()["data"]]
    assert (listed.count(name), listed.count(f"{name}@canary")) == (1, 1)
    response = http.post(f"/v1/learnwares/{name}/roll-back", json={"reason": "tried"}, headers=ADMIN)
    assert (response.status_code, response.json()["version"], response.json()["canary"]) == (200, version - 1, None)
    assert f"{name}@canary" not in answers(drawn).values()
    assert chat(http, "hi", f"{name}@canary", max_tokens=1).status_code == 404

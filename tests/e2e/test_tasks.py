"""A task's owner makes a specification, uploads it in the place of rows, and asks for the task, as a user would."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.learnwares import copy_of, zipped
from tests.e2e.support import ADMIN_KEY, BASE, Stack, chat

pytestmark = pytest.mark.e2e

NEWS = [
    f"{company} said {figure} {change} to EUR {number / 10} mn in the {quarter} quarter. Positive, neutral or negative?"
    for company in ("Nokia", "Elisa", "Kone", "Outokumpu", "Finnair")
    for figure, change, number in (("net sales", "rose", 131), ("operating profit", "fell", 24))
    for quarter in ("first", "second", "third", "fourth")
]
ASK = [{"role": "user", "content": "hello"}]
"""Says nothing: what answers it is the task's learnware, not the request's."""


@pytest.fixture(scope="module")
def specification(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of forty news lines of our own, through the command line."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in NEWS))
    command = [sys.executable, "-m", "serving.cli", "spec", "make", "rows.jsonl", "-o", "task.spec", "--mu", "4"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "from 40 rows" in done.stdout
    return (folder / "task.spec").read_bytes()


@pytest.fixture(scope="module")
def task(http: httpx.Client, specification: bytes) -> dict:
    response = http.post("/v1/task-specs", content=specification)
    assert response.status_code == 201, response.text
    return response.json()


@pytest.fixture(scope="module")
def client(stack: Stack):
    with stack.openai() as opened:
        yield opened


def test_the_learnware_of_the_task_answers_streamed_or_not(client: openai.OpenAI, http: httpx.Client, task: dict):
    assert task["learnware"].startswith("finance-")
    assert task["reason"] == "task"
    assert task["candidates"][0]["expected"] > task["base"]["expected"]
    assert (task["learnware"] in task["explanation"], task["advice"]) == (True, None)
    raw = client.chat.completions.with_raw_response.create(model=task["id"], messages=ASK, max_tokens=4)
    assert (raw.headers["x-learnware"], raw.headers["x-learnware-reason"]) == (task["learnware"], "task")
    assert raw.parse().model == task["learnware"]
    stream = client.chat.completions.create(model=task["id"], messages=ASK, max_tokens=4, stream=True)
    assert {chunk.model for chunk in stream} == {task["learnware"]}
    completion = client.completions.create(model=task["id"], prompt="hello", max_tokens=4)
    assert completion.model == task["learnware"]
    assert chat(http, "hello").headers["x-learnware"] == BASE


def test_every_router_knows_it_at_once(http: httpx.Client, specification: bytes, task: dict):
    assert http.post("/v1/task-specs", content=specification).json()["id"] == task["id"]
    for _ in range(8):
        response = chat(http, "hello", task["id"], max_tokens=1)
        assert response.headers["x-learnware-reason"] == "task"
    explained = http.post("/v1/route", json={"model": task["id"]}).json()
    assert (explained["learnware"], explained["reason"]) == (task["learnware"], "task")


def test_the_choice_is_made_anew_when_the_market_changes(http: httpx.Client, task: dict, tmp_path: Path):
    """The chosen learnware goes, and comes back in a higher version."""
    admin = {"authorization": f"Bearer {ADMIN_KEY}"}
    chosen = task["learnware"]
    # higher than what any other test has served of it, as a canary too
    original = zipped(copy_of(chosen, tmp_path / "original", chosen, version=20))
    response = http.delete(f"/v1/learnwares/{chosen}", headers=admin)
    assert response.status_code == 200, response.text
    try:
        other = http.get(f"/v1/task-specs/{task['id']}").json()
        assert other["learnware"] != chosen
        assert chat(http, "hello", task["id"], max_tokens=1).headers["x-learnware"] == (other["learnware"] or BASE)
    finally:
        response = http.post("/v1/learnwares", content=original, headers=admin | {"content-type": "application/zip"})
    assert response.status_code == 201, response.text
    assert http.get(f"/v1/task-specs/{task['id']}").json()["learnware"] == chosen


def test_an_unknown_task_is_a_404_that_says_what_to_do(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="spec make"):
        client.chat.completions.create(model="task:" + 32 * "0", messages=ASK)
    with pytest.raises(openai.NotFoundError, match="no task 'task:mine'"):
        client.completions.create(model="task:mine", prompt="hello")


def test_rows_are_refused_and_a_removed_task_is_gone(http: httpx.Client, specification: bytes):
    refused = http.post("/v1/task-specs", content=json.dumps({"prompt": NEWS[0]}))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_specification")
    name = http.post("/v1/task-specs", content=specification).json()["id"]
    assert http.delete(f"/v1/task-specs/{name}").json()["deleted"] is True
    assert http.get(f"/v1/task-specs/{name}").status_code == 404
    assert chat(http, "hello", name).status_code == 404


def test_new_routers_know_it_as_well(stack: Stack, http: httpx.Client, specification: bytes):
    """Every router process is killed; until others have come, requests that want a choice are refused."""
    task = http.post("/v1/task-specs", content=specification).json()
    before = {router.pid for router in stack.routers()}
    for router in stack.routers():
        router.kill()
    deadline = time.monotonic() + 120
    while True:
        response = chat(http, "hello", task["id"], max_tokens=1)
        assert response.status_code in {200, 429, 503}, response.text
        after = {router.pid for router in stack.routers()} - before
        if response.status_code != 200:
            assert int(response.headers["retry-after"]) >= 1
        elif len(after) == len(before) and response.headers["x-learnware-reason"] == "task":
            break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert response.headers["x-learnware"] == task["learnware"]

"""`/v1/task-specs` over a real store and a real selector, with the router's process played by the test."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from router.deployment import LearnwareRouter
from router.request import RoutedRequest
from router.selection import Choice, Selector
from router.settings import SelectionSettings
from serving.config import load_config
from serving.market.access import Access
from serving.task_specs import builder
from serving.task_specs.application import TaskSpecsAPI
from specs.encoder import load_prompt_encoder
from specs.errors import InvalidConfig, NotReady
from specs.learnware import load_learnwares
from specs.task import (
    MAX_BYTES,
    dump_task_specification,
    load_task_specification,
    make_task_specification,
    task_id,
)
from specs.task_store import TaskStore

STARTER = Path(__file__).parents[2] / "serving" / "starter_learnwares"
ROWS = [
    f"Is the sentiment of this tweet about the markets bullish, bearish or neutral?\n${company} {event} {share}%"
    for company in ("AAPL", "TSLA", "MSFT", "NVDA")
    for event in ("beats on earnings, shares up", "recalls cars, stock down", "guides lower, now trading down")
    for share in (3, 5, 12)
]
MU = 30.0
"""Little noise, since there are few rows and the choice must be clear."""
encoder = load_prompt_encoder()
selector = Selector(load_learnwares(STARTER), encoder, SelectionSettings())


@pytest.fixture(scope="module")
def file() -> bytes:
    return dump_task_specification(make_task_specification(ROWS, encoder, MU))


@pytest.fixture
def tasks(tmp_path: Path) -> TaskStore:
    return TaskStore(tmp_path)


def client_of(tasks: TaskStore, access: Access, routers: bool = True) -> httpx.AsyncClient:
    async def choose(name: str) -> dict[str, Any]:
        found = tasks.find(name)
        if not routers or found is None:
            raise NotReady("No router answers at the moment.")
        choice = selector.choose_task(found.mean, found.noise)
        candidates = [{"learnware": each.learnware_id, "score": each.score, "home": "r"} for each in choice.candidates]
        return {
            "learnware": choice.learnware_id,
            "reason": choice.reason,
            "confidence": choice.confidence,
            "candidates": candidates,
            "route_ms": 0.1,
        }

    app = TaskSpecsAPI(tasks, access, choose).application()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://tasks")


@pytest.fixture
async def client(tasks: TaskStore) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(tasks, Access(None, ())) as client:
        yield client


def message(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


async def test_a_specification_is_posted_shown_and_removed(client: httpx.AsyncClient, file: bytes):
    posted = await client.post("/v1/task-specs", content=file)
    assert posted.status_code == 201
    answer = posted.json()
    assert set(answer) == {
        "id",
        "object",
        "rows",
        "noise",
        "mu",
        "encoder",
        "learnware",
        "reason",
        "confidence",
        "candidates",
    }
    assert answer["id"] == task_id(load_task_specification(file))
    assert (answer["rows"], answer["mu"], answer["reason"]) == (36, pytest.approx(MU), "task")
    assert answer["learnware"].startswith("finance-")
    assert answer["candidates"][0]["learnware"] == answer["learnware"]
    assert all(set(each) == {"learnware", "score"} for each in answer["candidates"])
    assert (await client.post("/v1/task-specs", content=file)).json() == answer
    path = f"/v1/task-specs/{answer['id']}"
    assert (await client.get(path)).json() == answer
    assert (await client.delete(path)).json() == {
        "id": answer["id"],
        "object": "task_specification",
        "deleted": True,
    }
    for method in ("GET", "DELETE"):
        assert "There is no task 'task:" in message(await client.request(method, path), 404)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "The body is empty"),
        (b"{}", "this is no task specification"),
        (b'{"prompt": "a row that must not be sent"}\n' * 30, "this is no task specification"),
    ],
)
async def test_what_is_no_specification_is_refused(client: httpx.AsyncClient, content: bytes, reason: str):
    assert reason in message(await client.post("/v1/task-specs", content=content), 400)


async def test_an_upload_is_bounded_while_it_streams(client: httpx.AsyncClient, tasks: TaskStore):
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 100 * MAX_BYTES:
            sent += 4096
            yield bytes(4096)

    assert "at most 64 KiB" in message(await client.post("/v1/task-specs", content=endless()), 413)
    assert sent <= MAX_BYTES + 2 * 4096


async def test_a_full_store_is_a_507(tmp_path: Path, file: bytes):
    async with client_of(TaskStore(tmp_path, max_tasks=0), Access(None, ())) as client:
        assert "remove one" in message(await client.post("/v1/task-specs", content=file), 507)


async def test_a_key_is_needed_only_where_answers_need_one(tasks: TaskStore, file: bytes):
    async with client_of(tasks, Access("secret", ("reader",))) as client:
        for method, path in (("POST", ""), ("GET", "/task:x"), ("DELETE", "/task:x")):
            response = await client.request(method, f"/v1/task-specs{path}", content=file)
            assert "API key" in message(response, 401)
        key = {"authorization": "Bearer reader"}
        assert (await client.post("/v1/task-specs", content=file, headers=key)).status_code == 201


async def test_without_a_router_the_file_is_kept_and_the_client_told(tasks: TaskStore, file: bytes):
    async with client_of(tasks, Access(None, ()), routers=False) as client:
        assert "No router answers" in message(await client.post("/v1/task-specs", content=file), 503)
    assert tasks.find(task_id(load_task_specification(file))) is not None


async def test_paths_and_methods_that_are_not_there_are_named(client: httpx.AsyncClient):
    assert "There is no GET /v1/task-specs" in message(await client.get("/v1/task-specs"), 405)


def test_the_router_decides_for_a_task_as_the_selector_does(tasks: TaskStore, file: bytes):
    """The router's own decision, without Ray: what `__init__` makes of the market is set here."""
    name = tasks.put(load_task_specification(file))
    router = LearnwareRouter.__new__(LearnwareRouter)
    router._tasks = tasks
    router._builder = SimpleNamespace(snapshot=SimpleNamespace(selector=selector))

    def decide(model: str) -> Choice:
        return router._decide(RoutedRequest(model, ("hi",), whole=True), lambda: None)

    found = tasks.find(name)
    assert found is not None
    choice = decide(name)
    assert choice == selector.choose_task(found.mean, found.noise)
    assert choice != selector.choose_task(found.mean)  # the noise that the file records counts
    tasks.remove(name)
    choice = decide(name)
    assert (choice.learnware_id, choice.reason) == (None, "base:unknown-task")
    router._tasks = None
    assert decide("task:x").reason == "base:unknown-task"


def test_a_cluster_without_a_folder_that_all_nodes_see_keeps_no_tasks(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("{}")
    assert load_config(tmp_path / "config.yaml").market.folder is None
    with pytest.raises(InvalidConfig, match=r"needs market\.path"):
        builder.build({"config": str(tmp_path / "config.yaml")})

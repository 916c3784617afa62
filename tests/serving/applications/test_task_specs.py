"""`/v1/task-specs` over a real store and a real selector, with the router's process played by the test."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from router.explanation import describe
from router.request import RoutedRequest
from router.selection import Choice, Selector
from router.settings import SelectionSettings
from serving import serve_builders
from serving.access.keyring import Keyring, digest_of
from serving.access.tenant import Tenant
from serving.applications.access import Access
from serving.applications.task_specs import TaskSpecsAPI
from serving.config import load_config
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import InvalidConfig, NotReady
from specs.learnware import load_learnwares
from specs.prompts import everyday_prompts
from specs.task import (
    MAX_BYTES,
    dump_task_specification,
    load_task_specification,
    make_task_specification,
    task_id,
)
from specs.task_store import TaskStore
from tests.router.test_deployment import Router

STARTER = Path(__file__).parents[3] / "serving" / "starter_learnwares"
ROWS = [
    "Is the sentiment of this financial news positive, neutral or negative?\n"
    f"{company} said {figure} {change} to EUR {number / 10} mn in the {quarter} quarter."
    for company in ("Nokia", "Elisa", "Kone", "Outokumpu", "Finnair")
    for figure, change in (("net sales", "rose"), ("operating profit", "fell"), ("its order book", "grew"))
    for number in (131, 24, 870)
    for quarter in ("first", "second", "third", "fourth")
]
"""180 rows: noise that hides nothing."""
encoder = load_prompt_encoder()
selector = Selector(load_learnwares(STARTER), encoder, SelectionSettings())


@pytest.fixture(scope="module")
def file() -> bytes:
    return dump_task_specification(make_task_specification(ROWS, encoder, generator=np.random.default_rng(0)))


@pytest.fixture
def tasks(tmp_path: Path) -> TaskStore:
    return TaskStore(tmp_path)


def client_of(tasks: TaskStore, access: Access, routers: bool = True) -> httpx.AsyncClient:
    async def choose(name: str) -> dict[str, Any]:
        found = tasks.find(name)
        if not routers or found is None:
            raise NotReady("No router answers at the moment.")
        choice = selector.choose_task(found.mean, found.noise)
        candidates = [
            {"learnware": each.learnware_id, "score": each.score, "expected": each.expected, "home": "r"}
            for each in choice.candidates
        ]
        return {
            "learnware": choice.learnware_id,
            "reason": choice.reason,
            "confidence": choice.confidence,
            **describe(choice, ()),
            "candidates": candidates,
            "route_ms": 0.1,
        }

    app = TaskSpecsAPI(tasks, access, choose).application()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://tasks")


@pytest.fixture
async def client(tasks: TaskStore) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(tasks, Access(Keyring())) as client:
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
        "explanation",
        "confidence",
        "match",
        "min_match",
        "tasks",
        "base",
        "candidates",
        "advice",
    }
    assert answer["id"] == task_id(load_task_specification(file))
    assert (answer["rows"], answer["mu"], answer["reason"]) == (180, pytest.approx(1.0), "task")
    assert answer["learnware"].startswith("finance-")
    assert answer["candidates"][0].keys() == {"learnware", "score", "expected"}
    assert answer["candidates"][0]["learnware"] == answer["learnware"]
    assert answer["candidates"][0]["expected"] > answer["base"]["expected"]
    assert answer["tasks"][0] == {"task": answer["learnware"], "probability": answer["match"]}
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


@pytest.mark.slow
async def test_a_task_for_the_base_model_is_told_why_and_what_is_nearest(client: httpx.AsyncClient):
    """With few rows also how many would do; with many that is not the reason."""
    for rows in (24, 400):
        made = make_task_specification(everyday_prompts()[:rows], encoder, generator=np.random.default_rng(0))
        answer = (await client.post("/v1/task-specs", content=dump_task_specification(made))).json()
        assert answer["learnware"] is None
        assert answer["reason"].startswith("base:")
        assert answer["explanation"].endswith("so the base model answers.")
        assert len(answer["candidates"]) == 5
        assert all(one["expected"] <= answer["base"]["expected"] for one in answer["candidates"])
        assert answer["min_match"] == (0.5 if rows < 100 else 0.25)
        assert (answer["advice"] is None) == (rows > 100)
    made = make_task_specification(everyday_prompts()[:24], encoder, 4.0, np.random.default_rng(0))
    answer = (await client.post("/v1/task-specs", content=dump_task_specification(made))).json()
    assert "The noise of 24 rows at mu = 4 may hide what the task is. 25 rows would be enough" in answer["advice"]


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
    async with client_of(TaskStore(tmp_path, max_tasks=0), Access(Keyring())) as client:
        assert "remove one" in message(await client.post("/v1/task-specs", content=file), 507)


async def test_a_key_is_needed_only_where_answers_need_one(tasks: TaskStore, file: bytes):
    async with client_of(tasks, Access(Keyring(None, [(digest_of("reader"), Tenant("reader"))], "secret"))) as client:
        for method, path in (("POST", ""), ("GET", "/task:x"), ("DELETE", "/task:x")):
            response = await client.request(method, f"/v1/task-specs{path}", content=file)
            assert "API key" in message(response, 401)
        key = {"authorization": "Bearer reader"}
        assert (await client.post("/v1/task-specs", content=file, headers=key)).status_code == 201


def keyring(*names: str) -> Keyring:
    """Makes a keyring in which each tenant's key is its name, and the admin's is `secret`."""
    return Keyring(None, [(digest_of(name), Tenant(name)) for name in names], "secret")


async def test_only_who_has_posted_a_file_sees_and_removes_it(tasks: TaskStore, file: bytes):
    one = f"/v1/task-specs/{task_id(load_task_specification(file))}"
    async with client_of(tasks, Access(keyring("alice", "bob"))) as client:
        alice, bob, admin = ({"x-api-key": key} for key in ("alice", "bob", "secret"))
        assert (await client.post("/v1/task-specs", content=file, headers=alice)).status_code == 201
        for method in ("GET", "DELETE"):
            assert "of yours" in message(await client.request(method, one, headers=bob), 404)
        for headers in (alice, admin):
            assert (await client.get(one, headers=headers)).status_code == 200
        assert (await client.post("/v1/task-specs", content=file, headers=bob)).status_code == 201
        assert (await client.delete(one, headers=bob)).status_code == 200
        assert "of yours" in message(await client.get(one, headers=bob), 404)
        assert (await client.delete(one, headers=admin)).status_code == 200
        assert "of yours" in message(await client.get(one, headers=alice), 404)


async def test_a_key_has_a_quota_where_keys_are_needed(tmp_path: Path, file: bytes):
    store = TaskStore(tmp_path, max_owned=0)
    async with client_of(store, Access(keyring("alice"))) as client:
        refusal = await client.post("/v1/task-specs", content=file, headers={"x-api-key": "alice"})
        assert "remove one" in message(refusal, 403)
        assert refusal.json()["error"]["code"] == "task_quota_reached"
        assert (await client.post("/v1/task-specs", content=file, headers={"x-api-key": "secret"})).status_code == 201
    async with client_of(store, Access(Keyring())) as client:
        assert (await client.post("/v1/task-specs", content=file)).status_code == 201


async def test_files_without_an_owner_are_everybodys_without_keys_and_the_admins_with(tasks: TaskStore, file: bytes):
    name = tasks.put(load_task_specification(file))
    one = f"/v1/task-specs/{name}"
    async with client_of(tasks, Access(keyring("alice"))) as client:
        for method in ("GET", "DELETE"):
            assert "of yours" in message(await client.request(method, one, headers={"x-api-key": "alice"}), 404)
        assert (await client.get(one, headers={"x-api-key": "secret"})).status_code == 200
    async with client_of(tasks, Access(Keyring())) as client:
        assert (await client.get(one)).status_code == 200
        assert (await client.delete(one)).status_code == 200
        assert "of yours" in message(await client.get(one), 404)


async def test_without_keys_all_are_one_tenant_whose_files_keys_do_not_open(tasks: TaskStore, file: bytes):
    one = f"/v1/task-specs/{task_id(load_task_specification(file))}"
    async with client_of(tasks, Access(Keyring())) as client:
        assert (await client.post("/v1/task-specs", content=file)).status_code == 201
        assert (await client.get(one)).status_code == 200
    async with client_of(tasks, Access(keyring("alice"))) as client:
        assert "of yours" in message(await client.get(one, headers={"x-api-key": "alice"}), 404)


async def test_an_id_is_shown_escaped(client: httpx.AsyncClient):
    said = message(await client.get("/v1/task-specs/%1b%5b2Jtask"), 404)
    assert said.isprintable()


async def test_without_a_router_the_file_is_kept_and_the_client_told(tasks: TaskStore, file: bytes):
    async with client_of(tasks, Access(Keyring()), routers=False) as client:
        assert "No router answers" in message(await client.post("/v1/task-specs", content=file), 503)
    assert tasks.find(task_id(load_task_specification(file))) is not None


async def test_paths_and_methods_that_are_not_there_are_named(client: httpx.AsyncClient):
    assert "There is no GET /v1/task-specs" in message(await client.get("/v1/task-specs"), 405)


def test_the_router_decides_for_a_task_as_the_selector_does(tasks: TaskStore, file: bytes):
    """The router's own decision, without Ray: what `__init__` makes of the market is set here."""
    specification = load_task_specification(file)
    name = tasks.put(specification)
    router = Router.__new__(Router)
    router._tasks = tasks
    router._builder = SimpleNamespace(snapshot=SimpleNamespace(selector=selector))

    def decide(model: str) -> Choice:
        return router._decide(RoutedRequest(model, ("hi",), whole=True), lambda: None)

    assert decide(name) == selector.choose_task(specification.mean, specification.noise)
    tasks.remove(name)
    choice = decide(name)
    assert (choice.learnware_id, choice.reason) == (None, "base:unknown-task")
    router._tasks = None
    assert decide("task:x").reason == "base:unknown-task"


def test_a_cluster_without_a_folder_that_all_nodes_see_keeps_no_tasks(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("{}")
    assert load_config(tmp_path / "config.yaml").market.folder is None
    with pytest.raises(InvalidConfig, match=r"needs market\.path"):
        serve_builders.task_specs({"config": str(tmp_path / "config.yaml")})

"""`/v1/decisions` over a real store, with the router's process played by the test."""

import asyncio
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

pytest.importorskip("ray.serve")

from serving.access.keyring import Keyring, digest_of
from serving.access.tenant import Tenant
from serving.applications import decisions as module
from serving.applications.access import Access
from serving.applications.decisions import DecisionsAPI, DecisionsServer, decisions_application, decisions_path
from serving.config import Config
from serving.config_insight import DecisionSettings
from serving.decisions.queries import FEEDBACK_BYTES
from serving.decisions.store import DecisionStore
from tests.serving.decisions.test_store import replica_half, router_half

ALICE, BOB, ADMIN = ({"authorization": f"Bearer {name}"} for name in ("alice-key", "bob-key", "admin-key"))
KEYS = Keyring(static=[(digest_of(f"{name}-key"), Tenant(name)) for name in ("alice", "bob")], admin_key="admin-key")


class Router:
    """Makes recorded choices again."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.answer: dict[str, Any] = {"differs": False, "why": "The same."}

    async def __call__(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(recorded)
        return self.answer


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    made = DecisionStore(tmp_path / "decisions.sqlite", 1000, 1e6)
    made.add([replica_half(1), replica_half(2, "bob", status=429), replica_half(3, decision=None), router_half(1)])
    return made


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def http(store: DecisionStore, router: Router) -> Iterator[TestClient]:
    application = DecisionsAPI(store, Access(KEYS), router, record_s=0.3).application()
    with TestClient(application, raise_server_exceptions=False) as client:
        yield client


def listed(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [json.loads(line)["id"] for line in response.text.splitlines()]


def test_a_key_sees_its_own_and_the_admin_key_all(http: TestClient) -> None:
    answer = http.get("/v1/decisions", headers=ALICE)
    assert listed(answer) == ["request-3", "request-1"]
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert listed(http.get("/v1/decisions?tenant=bob", headers=BOB)) == ["request-2"]
    assert http.get("/v1/decisions?tenant=bob", headers=ALICE).status_code == 403
    assert listed(http.get("/v1/decisions", headers=ADMIN)) == ["request-3", "request-2", "request-1"]
    assert listed(http.get("/v1/decisions?tenant=bob", headers=ADMIN)) == ["request-2"]
    assert http.get("/v1/decisions").status_code == 401


def test_many_records_are_written_beside_the_event_loop(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def dumps(value: Any) -> str:
        written.append(threading.current_thread().name)
        return json.JSONEncoder().encode(value)

    monkeypatch.setattr(module, "json", SimpleNamespace(dumps=dumps))
    assert len(listed(http.get("/v1/decisions", headers=ADMIN))) == len(written) == 3
    assert all(name.startswith("decisions-read") for name in written)


def test_another_tenants_record_is_not_there(http: TestClient, router: Router, store: DecisionStore) -> None:
    assert http.get("/v1/decisions/request-1", headers=ALICE).json()["choice"]["learnware"] == "finance-tfns"
    unknown = http.get("/v1/decisions/request-9", headers=BOB)
    for response in (
        http.get("/v1/decisions/request-1", headers=BOB),
        http.post("/v1/decisions/request-1/replay", headers=BOB),
        http.post("/v1/decisions/feedback", headers=BOB, json={"id": "request-1", "score": 0}),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "decision_not_found"
        assert response.json()["error"]["message"] == unknown.json()["error"]["message"].replace("-9", "-1")
    assert not router.asked
    assert not list(store.feedback_rows())
    assert http.get("/v1/decisions/request-2?tenant=alice", headers=BOB).status_code == 403
    assert http.get("/v1/decisions/request-2?tenant=bob", headers=ADMIN).json()["tenant"] == "bob"
    assert http.get("/v1/decisions/request-2?tenant=alice", headers=ADMIN).status_code == 404


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("status=429", ["request-2"]),
        ("status=2xx&limit=1", ["request-3"]),
        ("task=finance-tfns", ["request-1"]),
        ("before=1002&after=0", ["request-1"]),
        ("after=1002.5", ["request-3"]),
        ("id=request-2", ["request-2"]),
        ("reason=named", []),
        ("learnware=%27%20OR%201%3D1--", []),
    ],
)
def test_filters(http: TestClient, query: str, ids: list[str]) -> None:
    assert listed(http.get(f"/v1/decisions?{query}", headers=ADMIN)) == ids


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("limit=0", "limit must be"),
        ("limit=1001", "limit must be"),
        ("limit=-1", "limit must be"),
        ("limit=1e3", "limit must be"),
        ("limit=%D9%A3", "limit must be"),  # an Arabic digit
        ("limit=" + "9" * 5000, "limit must be"),
        ("before=nan", "before must be"),
        ("before=1_000", "before must be"),
        ("before=-5", "before must be"),
        ("after=1e400", "after must be"),
        ("after=", "after must be"),
        ("status=999", "status must be"),
        ("status=ok", "status must be"),
        ("status=4x", "status must be"),
        ("reason=a%00b", "can be printed"),
        ("task=", "can be printed"),
        ("learnware=" + "a" * 300, "1 to 256 characters"),
        ("colour=red", "no query parameter 'colour'"),
        ("status=200&status=404", "must be there once"),
        ("%F0%9F%92%A9" * 100 + "=1", "no query parameter"),
    ],
)
def test_hostile_values_are_refused_in_a_sentence(http: TestClient, query: str, why: str) -> None:
    response = http.get(f"/v1/decisions?{query}", headers=ADMIN)
    assert response.status_code == 400
    assert why in response.json()["error"]["message"]
    assert len(response.text) < 500


@pytest.mark.parametrize("path", ["%00", "a%20b", "x" * 200, "..%2f..", "%27;--", "%f0%9f%92%a9"])
def test_an_id_that_none_can_be_is_not_there(http: TestClient, path: str) -> None:
    assert http.get(f"/v1/decisions/{path}", headers=ADMIN).status_code == 404


def test_a_replay_is_the_routers_answer(http: TestClient, router: Router) -> None:
    answer = http.post("/v1/decisions/request-1/replay", headers=ALICE)
    assert answer.json() == {"id": "request-1", "differs": False, "why": "The same."}
    (asked,) = router.asked
    assert asked["vectors"] == router_half(1)["vectors"]
    assert (asked["model"], asked["choice"]["learnware"]) == ("auto", "finance-tfns")
    router.answer = {"why_not": "Another encoder."}
    refused = http.post("/v1/decisions/request-1/replay", headers=ALICE)
    assert (refused.status_code, refused.json()["error"]["message"]) == (409, "Another encoder.")
    named = http.post("/v1/decisions/request-3/replay", headers=ALICE)
    assert (named.status_code, named.json()["error"]["code"]) == (409, "not_replayable")


def test_feedback_is_kept_with_its_decision(http: TestClient) -> None:
    for piece in ({"score": 0.5}, {"label": "wrong", "answer": "up"}, {"answer": "\ud800"}, {"score": 1}):
        body = json.dumps({"id": "request-1", **piece})
        response = http.post("/v1/decisions/feedback", headers=ALICE, content=body)
        assert response.status_code == 201
        assert response.json()["learnware"] == "finance-tfns"
    kept = http.get("/v1/decisions/request-1", headers=ALICE).json()["feedback"]
    assert [{k: one[k] for k in one if k not in ("time", "tenant")} for one in kept] == [
        {"score": 0.5},
        {"label": "wrong", "answer": "up"},
        {"answer": "\ud800"},
        {"score": 1},
    ]
    assert {one["tenant"] for one in kept} == {"alice"}
    assert http.post("/v1/decisions/feedback", headers=ADMIN, json={"id": "request-2", "score": 0}).status_code == 201


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON"),
        (b"[]", "a JSON object"),
        (b'{"score": 1}', "`id` must be"),
        (b'{"id": 7, "score": 1}', "`id` must be"),
        (b'{"id": "a b", "score": 1}', "`id` must be"),
        (b'{"id": "request-1"}', "a score or a label"),
        (b'{"id": "request-1", "score": 1, "label": "right"}', "a score or a label"),
        (b'{"id": "request-1", "score": 1.01}', "from 0 to 1"),
        (b'{"id": "request-1", "score": NaN}', "no JSON"),
        (b'{"id": "request-1", "score": true}', "from 0 to 1"),
        (b'{"id": "request-1", "score": "1"}', "from 0 to 1"),
        (b'{"id": "request-1", "label": "maybe"}', "`right` or `wrong`"),
        (b'{"id": "request-1", "label": ["right"]}', "`right` or `wrong`"),
        (b'{"id": "request-1", "answer": " "}', "`answer` must be"),
        (b'{"id": "request-1", "answer": "%s"}' % (20_000 * b"x"), "`answer` must be"),
        (b'{"id": "request-1", "score": 1, "tenant": "bob"}', "no field 'tenant'"),
        (b"[" * 100_000, "nested deeper"),
    ],
)
def test_wrong_feedback_is_refused_in_a_sentence(http: TestClient, body: bytes, why: str) -> None:
    response = http.post("/v1/decisions/feedback", headers=ALICE, content=body)
    assert response.status_code == 400
    assert why in response.json()["error"]["message"]


def test_a_body_that_is_too_large_is_not_read_on(http: TestClient) -> None:
    response = http.post("/v1/decisions/feedback", headers=ALICE, content=b" " * (FEEDBACK_BYTES + 1))
    assert response.status_code == 413


async def test_feedback_waits_for_a_record_on_its_way(store: DecisionStore, router: Router) -> None:
    import httpx

    application = DecisionsAPI(store, Access(KEYS), router, record_s=5).application()
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://log") as client:
        body = {"id": "request-7", "score": 1}
        sent = asyncio.create_task(client.post("/v1/decisions/feedback", headers=ALICE, json=body))
        await asyncio.sleep(0.2)
        store.add([replica_half(7)])
        assert (await sent).status_code == 201


def test_where_no_key_is_needed_all_are_one_tenant(tmp_path: Path, router: Router) -> None:
    store = DecisionStore(tmp_path / "d", 10, 1e6)
    store.add([replica_half(1, "anonymous"), replica_half(2, "admin")])
    with TestClient(DecisionsAPI(store, Access(Keyring(admin_key="admin-key")), router).application()) as client:
        assert listed(client.get("/v1/decisions")) == ["request-1"]
        assert len(listed(client.get("/v1/decisions", headers=ADMIN))) == 2


def test_a_store_that_cannot_be_used_is_a_503(tmp_path: Path, router: Router) -> None:
    (tmp_path / "file").write_text("")
    store = DecisionStore(tmp_path / "file" / "d", 10, 1e6)
    with TestClient(DecisionsAPI(store, Access(KEYS), router).application()) as client:
        answer = client.get("/v1/decisions", headers=ADMIN)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "decisions_unavailable")
    assert answer.headers["retry-after"]


async def test_the_replica_stores_what_comes_and_writes_it_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EMIT_EVERY_S", 0.02)
    settings = DecisionSettings(stdout=True)
    server = DecisionsServer(settings, tmp_path / "d", Access(KEYS), False, None)
    await server.__serve_build_asgi_app__()
    halves = [replica_half(1), router_half(1)]
    assert await server.add("\n".join(map(json.dumps, halves)).encode()) == 0
    await server.check_health()
    printed = ""
    for _ in range(200):
        printed += capsys.readouterr().out
        if printed:
            break
        await asyncio.sleep(0.02)
    assert json.loads(printed)["choice"]["learnware"] == "finance-tfns"
    server._emitting.cancel()
    server.__del__()
    server.__del__()


class Pupil:
    """A teacher that keeps what it was given, and fails at first."""

    def __init__(self) -> None:
        self.lessons: list[list[str]] = []

    def learn(self, rows: Iterable[Any]) -> None:
        self.lessons.append([piece["label"] for _, piece in rows])
        if len(self.lessons) == 1:
            raise OSError("the disk is full")


async def test_the_replica_has_feedback_learnt_from_and_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEARN_EVERY_S", 0.02)
    pupil: Any = Pupil()
    server = DecisionsServer(DecisionSettings(), tmp_path / "d", Access(KEYS), False, None, pupil)
    await server.__serve_build_asgi_app__()
    await server.add("\n".join(map(json.dumps, [replica_half(1), router_half(1)])).encode())
    assert server._store.feedback(None, replica_half(1)["id"], {"label": "right"}, "somebody") is not None
    for _ in range(400):
        if pupil.lessons[1:] and pupil.lessons[-1]:
            break
        await asyncio.sleep(0.02)
    assert pupil.lessons[-1] == ["right"]
    server._lessons.cancel()
    server.__del__()


def test_the_file_lies_where_the_configuration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNWARE_CACHE", str(tmp_path / "cache"))
    config = Config()
    assert decisions_path(config, tmp_path) == tmp_path / "decisions.sqlite"
    assert decisions_path(config, None) == tmp_path / "cache" / "decisions.sqlite"
    own = Config.model_validate({"decisions": {"path": str(tmp_path / "own.db")}})
    assert decisions_path(own, tmp_path) == tmp_path / "own.db"
    assert decisions_application(own, None, on_loopback=True) is not None

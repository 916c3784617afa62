"""`/v1/decisions/evaluations` over a real store: what whom is told, and the application from comparison to answer."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

pytest.importorskip("ray.serve")

from serving.applications import evaluations as module
from serving.applications.access import Access
from serving.applications.decisions import DecisionsAPI, DecisionsServer
from serving.applications.evaluations import Evaluation, Evaluations, configured_evaluation
from serving.config import Config
from serving.config_insight import DecisionSettings
from serving.decisions.redaction import Redactor
from serving.decisions.store import DecisionStore
from specs.errors import InvalidConfig
from tests.serving.applications.test_decisions import ADMIN, ALICE, BOB, KEYS, Router
from tests.serving.decisions.test_comparisons import row
from tests.serving.decisions.test_store import replica_half
from tests.serving.evaluation.judging import judge_server
from tests.serving.evaluation.parts import CANARY, part, side
from tests.serving.evaluation.test_canary_keeper import SHA, SINCE, VERSION, Market, answered, keeper

PATH = "/v1/decisions/evaluations"


async def write(work: Callable[[], Any]) -> Any:
    return work()


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    made = DecisionStore(tmp_path / "decisions.sqlite", 10_000, 1e6)
    for number, judge in enumerate([1.0, 1.0, 0.0, -1.0]):
        made.comparisons.add(row(number, judge=judge), None)
    made.comparisons.add(row(5, "bob", judge=None, state="failed"), None)
    made.comparisons.add(row(6, "bob", judge=None, state="waiting", second="health/y", reference=1.0), None)
    return made


@pytest.fixture
def http(store: DecisionStore) -> Iterator[TestClient]:
    access = Access(KEYS)
    evaluations = Evaluations(store.comparisons, access, Evaluation(), Redactor(()), write)
    application = DecisionsAPI(store, access, Router(), evaluations=evaluations).application()
    with TestClient(application, raise_server_exceptions=False) as client:
        yield client


def test_the_admin_key_sees_all(http: TestClient) -> None:
    answer = http.get(PATH, headers=ADMIN)
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    found = answer.json()
    assert [found[name] for name in ("object", "since", "judge", "waiting", "failed")] == [
        "evaluations",
        1000.0,
        None,
        1,
        1,
    ]
    reference, judge = found["pairs"]
    assert (reference["source"], reference["second"], reference["wins"]) == ("reference", "health/y", 1)
    low, high = judge.pop("interval")
    assert 0.2 < low < 0.625 < high < 1
    assert judge == {
        "first": "finance/x",
        "first_version": "finance/x@a",
        "second": "base",
        "second_version": None,
        "kind": "shadow",
        "source": "judge",
        "comparisons": 4,
        "wins": 2,
        "ties": 1,
        "losses": 1,
        "win_rate": 0.625,
        "tokens": [10.0, None],
        "seconds": [0.5, 1.0],
    }


def test_a_tenant_sees_its_own_requests_alone(http: TestClient) -> None:
    own = http.get(PATH, headers=BOB).json()
    assert [(one["source"], one["second"]) for one in own["pairs"]] == [("reference", "health/y")]
    assert (own["waiting"], own["failed"]) == (1, 1)
    other = http.get(PATH, headers=ALICE).json()
    assert [(one["source"], one["comparisons"]) for one in other["pairs"]] == [("judge", 4)]
    assert (other["waiting"], other["failed"]) == (0, 0)
    assert http.get(PATH).status_code == 401


def test_filters(http: TestClient) -> None:
    assert [one["second"] for one in http.get(f"{PATH}?learnware=health/y", headers=ADMIN).json()["pairs"]] == [
        "health/y"
    ]
    later = http.get(f"{PATH}?after=1001.5", headers=ADMIN).json()
    assert (later["since"], later["pairs"][1]["comparisons"]) == (1001.5, 2)
    for query, why in (
        ("after=now", "after must be"),
        ("learnware=", "1 to 256"),
        ("tenant=bob", "no query parameter"),
    ):
        refused = http.get(f"{PATH}?{query}", headers=ADMIN)
        assert (refused.status_code, why in refused.json()["error"]["message"]) == (400, True)


async def test_a_canary_is_told_with_its_evidence_to_the_admin_key(http: TestClient, store: DecisionStore) -> None:
    answered(store, 40, canary=1.0, current=1.0)
    await keeper(Market("finance/x"), store).look()
    found = http.get(PATH, headers=ADMIN).json()
    (canary,) = found["canaries"]
    assert {
        name: canary[name] for name in ("learnware", "version", "sha256", "share", "since", "state", "verdict")
    } == {
        "learnware": "finance/x",
        "version": VERSION,
        "sha256": SHA,
        "share": 0.05,
        "since": SINCE,
        "state": "running",
        "verdict": "waiting",
    }
    assert canary["answers"] == 10
    assert canary["evidence"]["feedback"] == {"canary": [10, 1.0], "current": [30, 1.0]}
    assert canary["evidence"]["failures"] == {"canary": [10, 0.0], "current": [30, 0.0]}
    assert canary["evidence"]["quality"]["compared"] == 10
    assert "does not tell yet" in canary["why"]
    pair = found["pairs"][-1]
    assert (pair["source"], pair["second"], pair["second_version"], pair["ties"]) == ("feedback", CANARY, VERSION, 10)

    (seen,) = http.get(PATH, headers=BOB).json()["canaries"]
    assert (seen["answers"], seen["why"], seen["evidence"]) == (None, None, None)
    assert (seen["state"], seen["share"]) == ("running", 0.05)
    assert all(one["source"] != "feedback" for one in http.get(PATH, headers=BOB).json()["pairs"])
    assert http.get(f"{PATH}?learnware=finance/x@canary", headers=ADMIN).json()["canaries"]
    assert not http.get(f"{PATH}?learnware=finance/y", headers=ADMIN).json()["canaries"]


def test_a_right_answer_given_as_feedback_compares_both(tmp_path: Path) -> None:
    store = DecisionStore(tmp_path / "d.sqlite", 100, 1e6)
    store.add([replica_half(1)])
    access = Access(KEYS)
    evaluations = Evaluations(store.comparisons, access, Evaluation(), Redactor(()), write)
    asyncio.run(evaluations.take([part(1, side("finance/x", "up"), side("base", "down"))]))
    with TestClient(DecisionsAPI(store, access, Router(), evaluations=evaluations).application()) as http:
        for body in ({"label": "right"}, {"answer": "Down."}):
            given = http.post("/v1/decisions/feedback", headers=ALICE, json={"id": "request-1", **body})
            assert given.status_code == 201
        (pair,) = http.get(PATH, headers=ALICE).json()["pairs"]
    assert (pair["source"], pair["wins"], pair["comparisons"]) == ("reference", 1, 1)


async def test_the_application_takes_comparisons_beside_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    market = Market("finance/x")
    monkeypatch.setattr(module, "_MarketApplication", lambda: market)
    with judge_server() as judge:
        judge.prefers(lambda a, b: len(a) > len(b))
        evaluation = Evaluation(judge.settings(), None, Config().canary, market=True)
        server = DecisionsServer(
            DecisionSettings(), tmp_path / "d.sqlite", Access(KEYS), False, None, evaluation=evaluation
        )
        application = await server.__serve_build_asgi_app__()
        parts = [
            replica_half(1),
            part(1, side("finance/x", "short"), side("base", "me@example.org is longer")),
            {"sides": []},
        ]
        assert await server.add("\n".join(json.dumps(one) for one in parts).encode()) == 1
        with TestClient(application) as http:
            assert http.get("/v1/decisions/request-1", headers=ALICE).status_code == 200
            for _ in range(200):
                found = http.get(PATH, headers=ADMIN).json()
                if not found["waiting"] and found["canaries"]:
                    break
                await asyncio.sleep(0.02)
        assert (found["judge"], found["failed"], found["pairs"][0]["wins"]) == ("a-judge", 0, 1)
        assert judge.asked[0]["answer_b"] == "[e-mail] is longer"
        assert found["canaries"][0]["verdict"] == "waiting"
        await server._evaluations.close()
        server.__del__()


def test_the_judges_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = {"url": "http://127.0.0.1:8001/v1", "model": "m", "key_env": "JUDGE_KEY"}
    config = Config.model_validate({"shadow": {"judge": judge}})
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(InvalidConfig, match="JUDGE_KEY, which is not set"):
        configured_evaluation(config, market=True)
    monkeypatch.setenv("JUDGE_KEY", "secret")
    assert configured_evaluation(config, market=True).key == "secret"
    assert configured_evaluation(Config(), market=False) == Evaluation(None, None, Config().canary, market=False)


def test_shadow_requests_need_the_log() -> None:
    with pytest.raises(ValueError, match=r"shadow.share needs decisions.enabled"):
        Config.model_validate({"shadow": {"share": 0.1}, "decisions": {"enabled": False}})

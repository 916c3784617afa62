"""Ids with a slash between router, replica and metrics: as `model`, in headers, in labels and in engine names."""

import json

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from router.choice import CHOICE_HEADER, RoutedChoice, encode_choice
from router.metrics import RouterMetrics
from router.placement import PlacementSettings
from router.placer import JointChoice
from router.selection import Candidate, Choice
from serving.applications.exposition import Exposition, merge
from serving.paging.residency import Residency
from serving.paging.settings import PagingSettings
from serving.replica.admission import Admission, Names
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.paging_metrics import PagingCollector, PagingState
from serving.replica.request_metrics import ReplicaMetrics
from specs.engine_name import engine_name
from specs.suggestion import did_you_mean

SECRET = b"k" * 32
ID, BASE = "acme/tfns", "org/base-8b"
ENGINE_NAME = engine_name(ID, "5" * 64)
NAMES = Names(BASE, frozenset({"auto"}), {ID: ENGINE_NAME, "acme-tfns": engine_name("acme-tfns", "6" * 64)})


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def client(registry: CollectorRegistry) -> httpx.AsyncClient:
    async def echo(request: Request) -> JSONResponse:
        adapter = request.headers.get("x-amzn-sagemaker-adapter-identifier")
        return JSONResponse({"body": json.loads(await request.body()), "adapter": adapter})

    inner = Starlette(routes=[Route(path, echo, methods=["POST"]) for path in ("/v1/completions", "/invocations")])
    app = LearnwareMiddleware(inner, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://replica")


def chosen(learnware_id: str) -> dict[str, str]:
    return {CHOICE_HEADER: encode_choice(RoutedChoice(learnware_id, "matched", 0.875, 0.42), SECRET)}


@pytest.mark.parametrize(
    ("model", "headers", "answers", "reason"),
    [
        (ID, {}, ID, "named"),
        (BASE, {}, BASE, "named"),
        ("auto", chosen(ID), ID, "matched"),
        ("auto", chosen("acme/other"), BASE, "base:not-served"),
    ],
)
async def test_the_one_that_is_asked_for_answers_and_is_counted(
    client: httpx.AsyncClient,
    registry: CollectorRegistry,
    model: str,
    headers: dict[str, str],
    answers: str,
    reason: str,
):
    answer = await client.post("/v1/completions", json={"model": model}, headers=headers)
    assert answer.json()["body"]["model"] == answers
    assert (answer.headers["x-learnware"], answer.headers["x-learnware-reason"]) == (answers, reason)
    assert registry.get_sample_value("learnware_requests_total", {"learnware": answers, "reason": reason}) == 1


async def test_sagemakers_header_may_hold_it(client: httpx.AsyncClient):
    name = "x-amzn-sagemaker-adapter-identifier"
    answer = await client.post("/invocations", json={"model": "auto"}, headers={name: ID})
    assert (answer.json()["adapter"], answer.headers["x-learnware"]) == (ID, ID)


@pytest.mark.parametrize("model", ["acme/tfnz", "tfns", "acme%2Ftfns", "acme/tfns/", "/acme/tfns", "Acme/tfns"])
async def test_what_only_looks_like_it_is_unknown_and_names_it(client: httpx.AsyncClient, model: str):
    answer = await client.post("/v1/completions", json={"model": model})
    assert answer.status_code == 404
    assert ID in answer.json()["error"]["message"]


def test_a_suggestion_is_made_from_its_parts():
    ids = ["finance-fiqa_sa", ID, "mathematics-aqua_rat"]
    assert did_you_mean("acme-tfns", ids).startswith(f"; did you mean {ID}")
    assert did_you_mean("tfns", ids).startswith(f"; did you mean {ID}")


def test_every_metric_with_its_label_survives_the_merging_of_processes(registry: CollectorRegistry):
    choice = Choice(ID, 0.9, 0.8, "matched", (Candidate(ID, 0.9),))
    of_router = CollectorRegistry()
    RouterMetrics(of_router).observe(choice, 0.001)
    ReplicaMetrics(registry).count(ID, "matched")
    residency = Residency(1)
    residency.note_worker(0, {**_WORKER, "names": {"1": ENGINE_NAME}})
    registry.register(PagingCollector(lambda: PagingState(residency, [ENGINE_NAME], 0)))
    parts = {"r1": registry, "r2": of_router}
    text = merge([Exposition({"replica": name}, generate_latest(one).decode()) for name, one in parts.items()])
    labels = {
        sample.name: sample.labels["learnware"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "learnware" in sample.labels
    }
    names = ("learnware_choices_total", "learnware_requests_total", "learnware_adapter_tier")
    assert {name: labels[name] for name in names} == dict.fromkeys(names, ID)


_WORKER = {
    "slots": [1],
    "host": {"1": 100},
    "slot_bytes": 400,
    "host_budget": 1000,
    "host_waiting": 0,
    "host_hits": 0,
    "host_misses": 0,
    "host_evictions": 0,
    "device_counts": dict.fromkeys(
        ("loads", "hits", "evictions", "load_seconds", "load_bytes", "disk_reads_in_step"), 0
    ),
    "host_counts": dict.fromkeys(("reads", "read_seconds", "read_bytes", "failures"), 0),
}


def test_a_pinned_one_is_told_from_one_that_is_called_alike():
    settings = PagingSettings(pinned=(ID,))
    assert settings.pins(ENGINE_NAME)
    assert not settings.pins(NAMES.learnwares["acme-tfns"])


class Replicas:
    """Two replicas, one of which holds the adapter."""

    def reports(self) -> dict[str, dict[str, object]]:
        common = {"slots": 4, "running": 0, "waiting": 0}
        return {"one": common | {"adapters": {}}, "two": common | {"adapters": {ENGINE_NAME: "device"}}}

    def call(self, name: str, method: str, *arguments: object) -> None:
        raise AssertionError("nothing is read that is there")


def test_it_is_placed_where_its_adapter_is_and_the_explanation_says_so():
    joint = JointChoice(Replicas(), 0.05, PlacementSettings())
    choice = Choice(ID, 0.9, 0.8, "matched", (Candidate(ID, 0.9, 1.0),))
    placed_choice, placed = joint.decide(choice, NAMES.learnwares)
    assert placed is not None
    assert (placed_choice.learnware_id, placed.replica) == (ID, "two")
    _, explained = joint.explain(choice, NAMES.learnwares)
    assert explained["candidates"][0]["learnware"] == ID
    assert explained["candidates"][0]["tiers"] == {"one": "disk", "two": "device"}

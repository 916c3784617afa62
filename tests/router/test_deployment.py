"""The router's own application, with a real selection over the starter learnwares and replicas that are only named."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("ray.serve")

from router import choice, deployment
from router.choice import CHOICE_HEADER, RoutedChoice, decode_choice
from router.conversation import ConversationSettings
from router.deployment import LearnwareRouter
from router.explanation import in_words
from router.options import RouterOptions
from router.selection import Candidate, Choice, Selector
from router.settings import SelectionSettings
from serving.config import Config
from serving.config_sections import RouterSettings
from specs.errors import Overloaded
from specs.prompts import everyday_prompts

README = (Path(__file__).parents[2] / "router" / "README.md").read_text(encoding="utf-8")
STARTER = Path(__file__).parents[2] / "serving" / "starter_learnwares"
SECRET = b"s" * 32
REPLICA = {"host": "127.0.0.1", "port": 30_000, "replica_id": "engine#1"}
ASK = "Is the sentiment of this financial news positive, neutral or negative?"
QUESTION = f"{ASK}\nOperating profit rose to EUR 13.1 mn from EUR 8.7 mn."


class Replicas:
    """One engine replica, which has said nothing but that it is there; keeps what was asked of it."""

    def __init__(self, _: object) -> None:
        self.calls: list[tuple[str, ...]] = []

    def reports(self) -> dict[str, dict[str, Any]]:
        report = {"adapters": {"general@1": "device"}, "slots": 1, "running": 0, "waiting": 0}
        return {"engine#1": report}

    def address(self, _: str) -> dict[str, Any]:
        return dict(REPLICA)

    def call(self, name: str, method: str, *arguments: Any) -> None:
        self.calls.append((name, method, *arguments))


class Router(LearnwareRouter):
    """A router that nobody stops: outside of Ray Serve, which awaits the end of one, garbage collection would begin it
    without an event loop."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


@pytest.fixture
def make_router(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LearnwareRouter]:
    async def any_replica(_: object) -> dict[str, Any]:
        return dict(REPLICA)

    monkeypatch.setattr(deployment, "EngineReplicas", Replicas)
    monkeypatch.setattr(deployment, "initialise", lambda _: None)
    monkeypatch.setattr(deployment, "choose_replica_id", any_replica)
    monkeypatch.setattr(deployment, "replica_line", lambda: "# replica r\n")
    monkeypatch.setattr(deployment, "serve_beside_changes", lambda: None)  # it changes the whole process
    defaults = RouterSettings()

    def make(**changes: Any) -> LearnwareRouter:
        options = {
            "learnwares": STARTER,
            "market": None,
            "base_model": None,
            "auto_names": defaults.auto_names,
            "deadline_ms": defaults.deadline_ms,
            "max_wait_ms": defaults.max_wait_ms,
            "on_overload": defaults.on_overload,
            "selection": SelectionSettings(),
            "conversation": ConversationSettings(),
            "on_loopback": False,
        }
        return Router(None, RouterOptions(**{**options, **changes}), SECRET)  # type: ignore[arg-type]

    return make


def body(model: str | None, *turns: str) -> bytes:
    messages = [{"role": "user", "content": turn} for turn in turns]
    return json.dumps({"messages": messages} | ({} if model is None else {"model": model})).encode()


def ask(router: LearnwareRouter, *bodies: bytes) -> list[httpx.Response]:
    """The answers to bodies that come at once."""

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=await router.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=transport, base_url="http://router", timeout=60) as client:
            return list(await asyncio.gather(*(client.post("/internal/route", content=each) for each in bodies)))

    return asyncio.run(run())


def chosen(response: httpx.Response) -> RoutedChoice | None:
    assert response.status_code == 200
    answer = response.json()
    assert {key: answer[key] for key in REPLICA} == REPLICA
    header = answer.get("request_headers", {}).get(CHOICE_HEADER)
    return None if header is None else decode_choice(header, SECRET)


def traces(router: LearnwareRouter) -> dict[str, float]:
    """What the router's metrics say, but for when they were made."""
    lines = asyncio.run(router.metrics_text()).splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples if "_created" not in name}


@pytest.mark.slow
def test_a_whole_burst_of_conversations_is_decided_and_not_given_to_the_base(make_router: Any) -> None:
    """128 conversations of eight turns at once. On a machine that cannot do it in time some may be refused; none is
    answered by the base model for the router's sake."""
    prompts = everyday_prompts()
    bodies = [
        body("auto", *(prompts[(number * 8 + turn) % len(prompts)] for turn in range(7)), f"{QUESTION} ({number})")
        for number in range(128)
    ]
    router = make_router()
    answers = ask(router, *bodies)
    refused = [answer for answer in answers if answer.status_code == 429]
    choices = [chosen(answer) for answer in answers if answer.status_code == 200]
    reasons = Counter(choice.reason for choice in choices if choice is not None)
    assert len(choices) + len(refused) == 128
    assert not [reason for reason in reasons if reason.startswith("base:router")], reasons
    assert reasons["matched"] > 0, reasons
    assert len(choices) >= 8  # a machine that does nothing else decides on more than 32
    assert all(1 <= int(answer.headers["retry-after"]) <= 30 for answer in refused)
    counted = traces(router)
    assert counted["learnware_route_wait_seconds_count"] == counted["learnware_route_seconds_count"] == len(choices)
    assert counted.get('learnware_route_refused_total{outcome="refuse"}', 0) == len(refused)
    assert counted["learnware_route_waiting"] == 0


class SlowSelector:
    """Takes its time over each text, without the interpreter's lock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def choose(self, _: str) -> Choice:
        """No turn speaks for itself, so the one before is looked at as well."""
        time.sleep(self._seconds)
        return Choice("general", 1.0, 1.0, "matched", (Candidate("general", 1.0, 1.0), Candidate("other", 1.0)))

    def answers_in_sentences(self, _: str) -> bool:
        return True


def slow(router: LearnwareRouter, seconds: float) -> LearnwareRouter:
    snapshot = router._builder.snapshot
    assert snapshot is not None
    router._builder.snapshot = snapshot._replace(selector=SlowSelector(seconds))  # type: ignore[arg-type]
    return router


@pytest.mark.slow
def test_past_its_bound_a_request_is_refused_with_when_to_come_again(make_router: Any) -> None:
    router = slow(make_router(max_wait_ms=200), 0.1)
    started = time.monotonic()
    answers = ask(router, *(body("auto", f"{number}") for number in range(30)))
    assert time.monotonic() - started < 5
    assert Counter(answer.status_code for answer in answers).keys() == {200, 429}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) > 10
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    counted = traces(router)
    assert counted['learnware_route_refused_total{outcome="refuse"}'] == len(refused)
    # 30 of 0.1 s in two threads; whoever began had not waited longer than the bound
    assert counted['learnware_route_wait_seconds_bucket{le="0.4"}'] == 30 - len(refused)


@pytest.mark.slow
def test_the_base_model_answers_in_overload_only_where_that_is_configured(make_router: Any) -> None:
    router = slow(make_router(max_wait_ms=200, on_overload="base"), 0.1)
    choices = [chosen(answer) for answer in ask(router, *(body("auto", f"{number}") for number in range(30)))]
    reasons = Counter(choice.reason for choice in choices if choice is not None)
    assert reasons.keys() == {"matched", "base:router-overload"}
    assert reasons["base:router-overload"] > 10
    assert {choice.learnware for choice in choices if choice and choice.reason != "matched"} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["finance-tfns", "base-8b", "no-such-model", "", None])
def test_a_request_that_asks_for_no_choice_neither_waits_nor_is_refused(make_router: Any, model: str | None) -> None:
    router = slow(make_router(max_wait_ms=50), 0.2)

    async def run() -> float:
        transport = httpx.ASGITransport(app=await router.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=transport, base_url="http://router", timeout=60) as client:
            line = [asyncio.ensure_future(client.post("/internal/route", content=body("auto", "x"))) for _ in range(20)]
            await asyncio.sleep(0.02)
            started = time.monotonic()
            for size in (10, 100_000):  # read in the loop, and in a thread
                answer = await client.post("/internal/route", content=body(model, "y" * size))
                assert chosen(answer) is None
            seconds = time.monotonic() - started
            await asyncio.gather(*line)
            return seconds

    assert asyncio.run(run()) < 0.15
    assert traces(router)["learnware_route_seconds_count"] < 20


@pytest.mark.slow
def test_where_the_model_cannot_be_read_the_replica_is_left_to_refuse(make_router: Any) -> None:
    """A body that was cut before its model may name one."""
    router = slow(make_router(max_wait_ms=50), 0.2)
    cut = b'{"messages": [{"role": "user", "content": "' + b"x" * 100
    reasons = Counter(choice.reason for choice in map(chosen, ask(router, *[cut] * 20)) if choice is not None)
    assert sum(reasons.values()) == 20
    assert reasons["base:router-overload"] > 10


@pytest.mark.slow
def test_a_decision_past_its_deadline_is_the_base_models_and_frees_its_thread(make_router: Any) -> None:
    router = slow(make_router(deadline_ms=30), 0.1)
    started = time.monotonic()
    bodies = [
        body("auto", *(f"turn {turn} of {number}" for turn in range(turns)))
        for number, turns in enumerate((50, 50, 1, 1))
    ]
    answers = ask(router, *bodies)
    choices = [choice for choice in map(chosen, answers) if choice is not None]
    assert [(choice.learnware, choice.reason) for choice in choices] == [(None, "base:router-deadline")] * 4
    # the long ones would take 2 s, and the others would then have been refused
    assert time.monotonic() - started < 1


@pytest.mark.slow
def test_an_explanation_leaves_no_trace(make_router: Any) -> None:
    router = make_router()
    ask(router, body("auto", QUESTION))
    before, calls = traces(router), list(router._replicas.calls)
    assert before["learnware_route_seconds_count"] == 1
    assert calls == [("engine#1", "prefetch", router._adapters()[chosen_id(router)])]
    for request in (body("auto", QUESTION), body(None, QUESTION), body("finance-tfns", QUESTION), body("task:x"), b"{"):
        asyncio.run(router.explain(request))
    explained = asyncio.run(router.explain(body("auto", QUESTION)))
    assert explained["learnware"] == chosen_id(router)
    assert explained["replica"]["id"] == "engine#1"
    assert (traces(router), router._replicas.calls) == (before, calls)


EVERYDAY = "Write a short poem about autumn leaves for my grandmother."
FIGURES = {"explanation", "ask", "tasks", "base", "match", "min_match", "candidates", "score", "confidence", "reason"}


def explained(router: LearnwareRouter, *turns: str, system: str | None = None) -> dict[str, Any]:
    messages = [{"role": "user", "content": turn} for turn in turns]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return asyncio.run(router.explain(json.dumps({"model": "auto", "messages": messages}).encode()))


@pytest.mark.slow
def test_an_explanation_holds_what_the_rule_compared(make_router: Any) -> None:
    router = make_router()
    for question in (QUESTION, EVERYDAY):
        answer = explained(router, question)
        assert answer.keys() >= FIGURES
        assert {f"`{key}`" for key in answer} <= set(
            re.findall(r"`\w+`", README.partition("## The choice explained")[2])
        )
        probabilities = [task["probability"] for task in answer["tasks"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0.5 < sum(probabilities) <= 1.0001
        expected = [one["expected"] for one in answer["candidates"]]
        assert expected == sorted(expected, reverse=True)
        better, matches = expected[0] > answer["base"]["expected"], answer["match"] >= answer["min_match"]
        assert (answer["learnware"] is not None) == (better and matches), answer
    assert answer["tasks"][0]["task"] == "base:everyday"
    assert answer["reason"] == "base:low-confidence"
    assert "0.5 would be needed; so the base model answers" in answer["explanation"]


@pytest.mark.slow
def test_an_explanation_names_what_is_asked_of_the_turn_that_decides(make_router: Any) -> None:
    router = make_router()
    assert explained(router, QUESTION)["ask"] == [ASK]
    assert explained(router, "Net sales fell to EUR 2.1 mn from EUR 3.4 mn.", system=ASK)["ask"][0] == ASK
    held = explained(router, EVERYDAY, QUESTION, "And the next one?")
    assert (held["reason"], held["ask"]) == ("session", [ASK])
    assert held["explanation"].startswith("An earlier turn asked for what finance-")
    poem = explained(router, QUESTION, EVERYDAY)
    assert (poem["learnware"], poem["ask"]) == (None, [EVERYDAY])
    for nothing in (body("auto"), body("task:x", QUESTION), body("finance-tfns", QUESTION), b"{"):
        assert asyncio.run(router.explain(nothing))["ask"] == []


def test_every_reason_of_a_router_has_its_sentence(make_router: Any) -> None:
    reasons = {value for name, value in vars(choice).items() if name.isupper() and isinstance(value, str)}
    others = {choice.CHOICE_HEADER, choice.FAILED_HEADER, choice.RESIDENT, choice.NEXT, choice.CANARY}
    edge = {choice.NO_CHOICE, choice.ROUTER_UNREACHABLE, choice.ROUTER_TIMEOUT, choice.GENERATES_NOTHING}
    assert {choice.MATCHED, choice.NO_TEXT, choice.SESSION} <= reasons - others - edge
    for reason in reasons - others - edge:  # the edge's own reasons: no router gave them
        for learnware in (None, "a"):
            made = Choice(learnware, 0.5, 0.5, reason, (Candidate("a", 0.5, 1.0, 0.6),) if learnware else ())
            sentence = in_words(made)
            assert sentence.endswith(".")
            assert "{" not in sentence
    stand_in = Choice("b", 0.5, 0.5, "matched:resident", (Candidate("a", 0.6), Candidate("b", 0.5)))
    assert "b stands in" in in_words(stand_in)


def chosen_id(router: LearnwareRouter) -> str:
    snapshot = router._snapshot
    assert snapshot is not None
    assert isinstance(snapshot.selector, Selector)
    learnware = snapshot.selector.choose(QUESTION).learnware_id
    assert learnware is not None
    return learnware


@pytest.mark.slow
def test_in_overload_an_explanation_is_refused_and_not_counted(make_router: Any) -> None:
    router = slow(make_router(max_wait_ms=50), 0.2)

    async def run() -> list[Any]:
        return await asyncio.gather(*(router.explain(body("auto", "x")) for _ in range(20)), return_exceptions=True)

    before = traces(router)
    assert sum(isinstance(answer, Overloaded) for answer in asyncio.run(run())) > 10
    assert traces(router) == before


def test_the_defaults_answer_the_edge_in_time() -> None:
    router = Config().router
    assert router.on_overload == "refuse"
    assert router.max_wait_ms + router.deadline_ms < deployment.ANSWER_WITHIN_S * 1000 < 2000

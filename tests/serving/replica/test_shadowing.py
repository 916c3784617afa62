"""Second answers: which requests get one, by whom, that they are like the first ones, and that no client notices."""

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from router.choice import CHOICE_HEADER, RoutedChoice, encode_choice
from router.drawing import drawn
from serving.access.caller import caller
from serving.access.tenant import ANONYMOUS, Tenant
from serving.config_access import LimitSettings
from serving.config_evaluation import ShadowSettings
from serving.config_sections import HTTPSettings
from serving.decisions.open_record import TEXT_CHARS, OpenRecord, open_record
from serving.paging.idle import is_idle_work
from serving.paging.inflight import DeadEngine, exchange
from serving.paging.usage import Meter
from serving.replica.admission import Admission, Names
from serving.replica.answering import Answering
from serving.replica.idle_work import IdleWork, Room
from serving.replica.limits import Limits, ReplicaLimits
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.recording import Recording
from serving.replica.request_metrics import ReplicaMetrics
from serving.replica.shadowing import Shadowing, other_model
from serving.replica.shortening import is_shortened
from specs.errors import AdapterUnavailable

SECRET = b"s" * 32
CHAT = "/v1/chat/completions"
NAMES = Names("base-8b", frozenset({"auto"}), {name: f"{name}@1" for name in ("a", "b", "c", "c@canary")})
PAYLOAD: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": "Up or down?"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "temperature": 0.3,
    "seed": 7,
}


class Recorder:
    prompts = False

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.comparisons: list[Any] = []
        self.full = False

    def add(self, part: Any) -> None:
        self.parts.append(json.loads(json.dumps(part)))

    def compared(self, part: Any) -> bool:
        if not self.full:
            self.comparisons.append(json.loads(json.dumps(part)))
        return not self.full


class Replica:
    """The middlewares of a replica, in their order, before an application that stands for vLLM's: it answers with the
    model's name, by one run of an engine or several, and notes what it was given and on whose behalf."""

    def __init__(self, share: float = 1.0, against: str = "next", names: Names = NAMES, busy: bool = False) -> None:
        self.calls: list[dict[str, Any]] = []
        self.runs = 1
        self.status: Callable[[str], int] = lambda _: 200
        self.failure: Callable[[str], Exception | None] = lambda _: None
        self.held: list[str] = []
        self.unloadable = ""
        self.registry = CollectorRegistry()
        self.recorder = Recorder()
        self.engine = SimpleNamespace(
            waiting=int(busy), entered=0, idle=0, adapters={}, residency=SimpleNamespace(slots=4, scheduler=None)
        )
        self.idle_work = IdleWork(Room(self.engine, 8), 4)
        admission = Admission(names)
        settings = ShadowSettings(share=share, against=against)  # type: ignore[arg-type]
        self.metrics_registry = CollectorRegistry()
        app: Any = Shadowing(
            self.vllm,
            settings=settings,
            admission=admission,
            hold=self.hold,
            idle_work=self.idle_work,
            recorder=self.recorder,
            registry=self.registry,
        )
        metrics = ReplicaMetrics(self.metrics_registry)
        app = LearnwareMiddleware(app, admission=admission, secret=SECRET, metrics=metrics, hold=self.hold)
        limits = ReplicaLimits(LimitSettings(), HTTPSettings(), 8, NAMES.auto_names)
        self.limits = Limits(app, settings=limits, engine=self.engine)
        app = Answering(self.limits)
        self.app = Recording(app, recorder=self.recorder, replica="r", secrets=(SECRET,))  # type: ignore[arg-type]

    def hold(self, engine_name: str) -> Any:
        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def held() -> Any:
            if engine_name == self.unloadable:
                raise AdapterUnavailable(f"{engine_name} could not be loaded")
            self.held.append(engine_name)
            try:
                yield
            finally:
                self.held.remove(engine_name)

        return held()

    async def vllm(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = json.loads(message["body"])
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        model, running = body["model"], exchange.get()
        record = open_record.get()
        self.calls.append(
            {
                "body": body,
                "headers": headers,
                "idle": is_idle_work(),
                "tenant": caller.get().name,
                "held": list(self.held),
                "places": self.limits.places.used,
                "shortened": is_shortened(),
                "path": scope["path"],
            }
        )
        error = self.failure(model)
        if error is not None:
            assert running is not None
            running.failure = error
            raise error
        for _ in range(self.runs):
            meter = Meter(None, caller.get().name, incremental=False)
            meter.enters()
            sequence = SimpleNamespace(index=0, text=f"I am {model}", token_ids=[1] * len(model))
            output = SimpleNamespace(prompt_token_ids=[1] * 5, outputs=[sequence], metrics=None)
            meter.tokens.see(output)
            meter.note_output(output)
        assert record is not None
        running.began = True  # type: ignore[union-attr]
        kind = b"text/event-stream" if body.get("stream") else b"application/json"
        await send({"type": "http.response.start", "status": self.status(model), "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    async def ask(
        self,
        payload: dict[str, Any] | None = None,
        *,
        path: str = CHAT,
        tenant: Tenant = ANONYMOUS,
        learnware: str | None = "a",
        after: str | None = "b",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        before = caller.set(tenant)
        choice = RoutedChoice(learnware, "matched", 0.9, 1.0, after, "0123456789abcdef")
        sent = {"x-request-id": "r-1", CHOICE_HEADER: encode_choice(choice, SECRET)} | (headers or {})
        try:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=self.app), base_url="http://replica"
            ) as client:
                return await client.post(path, json=payload or PAYLOAD, headers=sent)
        finally:
            caller.reset(before)

    def outcomes(self) -> dict[str, float]:
        values = {
            sample.labels["outcome"]: sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == "learnware_shadow_requests_total"
        }
        return {outcome: count for outcome, count in values.items() if count}

    async def work(self, outcome: str = "done") -> None:
        """Does what waits, until this came of it."""
        self.idle_work.start()
        try:
            async with asyncio.timeout(5):
                while outcome not in self.outcomes():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        finally:
            await self.idle_work.close()


async def test_a_request_is_answered_again_by_the_runner_up_as_the_first_time_and_both_answers_are_compared() -> None:
    replica = Replica()
    ann = Tenant("ann", max_tokens=50)
    response = await replica.ask({**PAYLOAD, "stream": True, "stream_options": {"include_usage": True}}, tenant=ann)
    assert response.headers["x-learnware"] == "a"
    assert response.content == b"data: 1\n\ndata: 2\n\n"
    assert len(replica.calls) == 1, "nothing is done on the request's way"
    await replica.work()
    first, second = replica.calls
    assert second["body"] == {**PAYLOAD, "model": "b", "max_tokens": 50}
    assert first["body"] == second["body"] | {
        "model": "a",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert (first["idle"], second["idle"]) == (False, True)
    assert (first["tenant"], second["tenant"]) == ("ann", "ann")
    assert (first["held"], second["held"]) == (["a@1"], ["b@1"])
    assert (first["places"], second["places"]) == (1, 0)
    assert (first["shortened"], second["shortened"]) == (True, True)
    assert second["headers"] == {
        "content-type": "application/json",
        "x-request-id": "r-1-shadow",
        "content-length": str(len(json.dumps(second["body"], separators=(",", ":")))),
    }
    (comparison,) = replica.recorder.comparisons
    times = [side.pop("seconds") for side in comparison["sides"]]
    assert all(0 <= seconds < 5 for seconds in times)
    assert comparison.pop("time") == replica.recorder.parts[0]["time"]
    assert comparison == {
        "id": "r-1",
        "tenant": "ann",
        "decision": "0123456789abcdef",
        "path": CHAT,
        "prompt": "user: Up or down?",
        "kind": "shadow",
        "sides": [
            {"learnware": "a", "version": "a@1", "answer": "I am a", "tokens": 1, "status": 200},
            {"learnware": "b", "version": "b@1", "answer": "I am b", "tokens": 1, "status": 200},
        ],
    }
    assert replica.outcomes() == {"done": 1}


async def test_a_second_answer_is_in_no_record_and_no_metrics_of_requests_and_the_texts_stay_out_of_the_log() -> None:
    replica = Replica()
    await replica.ask()
    await replica.work()
    assert [part["learnware"] for part in replica.recorder.parts] == ["a"]
    assert "text" not in replica.recorder.parts[0]
    value = replica.metrics_registry.get_sample_value
    assert value("learnware_requests_total", {"learnware": "a", "reason": "matched"}) == 1
    assert value("learnware_requests_total", {"learnware": "b", "reason": "named"}) is None
    assert replica.limits.places.used == 0


@pytest.mark.parametrize(
    ("learnware", "after", "against", "other"),
    [
        ("a", "b", "next", "b"),
        ("a", "b", "base", "base-8b"),
        ("a", None, "next", "base-8b"),
        ("a", "gone", "next", "base-8b"),
        ("a", "a", "next", "base-8b"),
        (None, None, "next", None),
        (None, "b", "next", "b"),
        (None, None, "base", None),
        ("c", "b", "next", "c@canary"),
        ("c", "b", "base", "c@canary"),
        ("c@canary", "b", "next", "c"),
        ("c@canary", "b", "base", "c"),
    ],
)
async def test_who_answers_the_second_time(learnware: Any, after: Any, against: str, other: str | None) -> None:
    replica = Replica(against=against)
    await replica.ask(learnware=learnware, after=after)
    assert replica.idle_work.waiting == (other is not None)
    if other is not None:
        await replica.work()
        (comparison,) = replica.recorder.comparisons
        assert comparison["kind"] == ("canary" if learnware in ("c", "c@canary") else "shadow")
        assert [side["learnware"] for side in comparison["sides"]] == [learnware or "base-8b", other]
        version = None if other == "base-8b" else f"{other}@1"
        assert comparison["sides"][1]["version"] == version


async def test_a_request_that_names_its_model_is_compared_with_the_base_model() -> None:
    replica = Replica()
    await replica.ask({**PAYLOAD, "model": "b"})
    await replica.work()
    (comparison,) = replica.recorder.comparisons
    assert [side["learnware"] for side in comparison["sides"]] == ["b", "base-8b"]
    assert comparison["decision"] is None


def test_a_canary_whose_learnware_is_gone_has_nobody_to_be_compared_with() -> None:
    record = OpenRecord("1", "t", CHAT, None, keeps_text=False)
    record.answered_by("x@canary", "x@canary@1", "matched", None)
    assert other_model(record, NAMES, "base") is None
    assert other_model(OpenRecord("1", "t", CHAT, None, keeps_text=False), NAMES, "base") is None


LIST = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        (CHAT, {**PAYLOAD, "n": 2}),
        (CHAT, {**PAYLOAD, "prompt_logprobs": 1}),
        (CHAT, {**PAYLOAD, "messages": [{"role": "user", "content": "x" * (256 << 10)}]}),
        ("/v1/completions", {"model": "auto", "prompt": ["x", "y"]}),
        ("/v1/completions", {"model": "auto", "prompt": "x", "best_of": 2}),
        ("/v1/completions", {"model": "auto", "prompt": "x", "echo": True, "logprobs": 1}),
        ("/v1/responses", {"model": "auto", "input": "x", "background": True}),
        ("/v1/responses", {"model": "auto", "input": "x", "previous_response_id": "resp_1"}),
        ("/v1/chat/completions/batch", {"model": "auto", "messages": [LIST]}),
        ("/inference/v1/generate", {"model": "auto", "token_ids": [1]}),
        ("/tokenize", {"model": "auto", "prompt": "x"}),
    ],
)
async def test_requests_that_are_not_ordinary_are_not_answered_again(path: str, payload: dict[str, Any]) -> None:
    replica = Replica()
    if path == "/tokenize":
        open_record.set(None)
        replica.runs = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        replica.limits._app._app._app = app  # type: ignore[attr-defined]
    assert (await replica.ask(payload, path=path)).status_code == 200
    assert replica.idle_work.waiting == 0
    assert replica.outcomes() == {}


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("/v1/completions", {"model": "auto", "prompt": "x", "max_tokens": 3}),
        ("/v1/responses", {"model": "auto", "input": "x", "store": True}),
        ("/v1/messages", {"model": "auto", "messages": LIST, "max_tokens": 3}),
    ],
)
async def test_ordinary_requests_of_every_api_are(path: str, payload: dict[str, Any]) -> None:
    replica = Replica()
    await replica.ask(payload, path=path)
    await replica.work()
    changed = {"model": "b"} | ({"store": False} if path == "/v1/responses" else {})
    assert (replica.calls[1]["path"], replica.calls[1]["body"]) == (path, payload | changed)


async def test_answers_of_several_runs_refused_ones_and_broken_ones_are_not_compared() -> None:
    for change in ({"runs": 2}, {"status": lambda _: 400}, {"failure": lambda _: RuntimeError("broken")}):
        replica = Replica()
        vars(replica).update(change)
        await replica.ask()
        assert replica.idle_work.waiting == 0, change


async def test_where_the_other_model_fails_that_is_told_and_a_refusal_or_a_dead_engine_tells_nothing() -> None:
    def replica_with(**change: Any) -> Replica:
        replica = Replica()
        vars(replica).update(change)
        return replica

    broken = replica_with(failure=lambda model: RuntimeError("x") if model == "b" else None)
    await broken.ask()
    await broken.work("failed")  # what broke is not known to be the model's fault
    assert not broken.recorder.comparisons

    for change, status in (
        ({"unloadable": "b@1"}, 503),
        ({"status": lambda model: 500 if model == "b" else 200}, 500),
    ):
        replica = replica_with(**change)
        await replica.ask()
        await replica.work()
        assert replica.recorder.comparisons[0]["sides"][1]["status"] == status

    for change in (
        {"status": lambda model: 400 if model == "b" else 200},
        {"failure": lambda model: DeadEngine("it died") if model == "b" else None},
    ):
        replica = replica_with(**change)
        await replica.ask()
        await replica.work("failed")
        assert not replica.recorder.comparisons


async def test_a_model_that_left_the_market_meanwhile_is_not_asked() -> None:
    replica = Replica()
    await replica.ask()
    replica.limits._app._admission.names = NAMES._replace(learnwares={"a": "a@1"})  # type: ignore[attr-defined]
    await replica.work("failed")
    assert len(replica.calls) == 1


async def test_nothing_is_done_while_a_request_waits_and_more_than_may_wait_are_dropped() -> None:
    replica = Replica(busy=True)
    for _ in range(6):
        await replica.ask()
    replica.idle_work.start()
    await asyncio.sleep(0.1)
    assert (replica.idle_work.waiting, len(replica.calls), replica.outcomes()) == (4, 6, {"dropped": 2})
    replica.engine.waiting = 0
    await replica.work()


async def test_a_comparison_that_nobody_takes_is_counted() -> None:
    replica = Replica()
    replica.recorder.full = True
    await replica.ask()
    await replica.work()
    assert replica.outcomes() == {"done": 1, "dropped": 1}


async def test_texts_are_cut_well_beyond_what_is_kept_of_them_redacted() -> None:
    replica = Replica()
    text = "y" + "x" * (2 * TEXT_CHARS)
    await replica.ask({**PAYLOAD, "messages": [{"role": "user", "content": text}]})
    await replica.work()
    assert replica.recorder.comparisons[0]["prompt"] == "x" * (2 * TEXT_CHARS)


async def test_no_part_of_a_request_makes_it_idle_work() -> None:
    """Neither fields nor headers; a client may choose its request's id, and so whether it is answered again."""
    replica = Replica()
    forged = {
        **PAYLOAD,
        "priority": 1 << 30,
        "idle": True,
        "vllm_xargs": {"learnware": {"idle": True}, "more": 1},
    }
    headers = {"x-request-id": "r-1-shadow", "x-vllm-priority": "99", "x-idle-work": "1"}
    await replica.ask(forged, headers=headers)
    (call,) = replica.calls
    assert (call["idle"], call["places"]) == (False, 1)
    assert call["body"]["vllm_xargs"] == {"more": 1}


def test_so_many_requests_are_drawn_and_their_ids_decide() -> None:
    found = [drawn("shadow", str(number), 0.2) for number in range(5000)]
    assert 0.18 < sum(found) / len(found) < 0.22
    assert found == [drawn("shadow", str(number), 0.2) for number in range(5000)]
    assert not any(drawn("shadow", str(number), 0.0) for number in range(100))
    assert all(drawn("shadow", str(number), 1.0) for number in range(100))


async def test_requests_that_are_not_drawn_gather_no_text() -> None:
    replica = Replica(share=0.0)
    await replica.ask()
    assert replica.idle_work.waiting == 0

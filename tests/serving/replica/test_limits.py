"""The limits in front of an application that says what reached it: what is refused, when, and with which words."""

import asyncio
import json
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client import CollectorRegistry

from router.choice import CHOICE_HEADER, RoutedChoice, encode_choice
from serving.access.account import TokenCount, counted
from serving.access.caller import caller
from serving.access.tenant import ANONYMOUS, Tenant
from serving.config_access import LimitSettings
from serving.config_sections import HTTPSettings
from serving.names import GENERATING_PATHS
from serving.replica.admission import Admission
from serving.replica.limits import Limits, ReplicaLimits
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.request_metrics import ReplicaMetrics
from tests.serving.replica.middleware_client import NAMES, SECRET, TASK, choice

CHAT = "/v1/chat/completions"
CANARY = "finance-tfns@canary"


class Replica:
    """Both middlewares before an application that answers with the body it got, once `open` is set. `took` are the
    tokens of prompt and answer that the engine takes, None where it is given nothing."""

    def __init__(self, *, took: tuple[int, int] | None = None, **settings: object) -> None:
        self.seen: list[dict[str, object]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.arrived, self.awaited = asyncio.Event(), 0
        self.took = took
        self.able = True
        names = settings.pop("names", NAMES)
        self.scheduler: dict[str, object] | None = None
        http = HTTPSettings(max_body_mib=settings.pop("max_body_mib", 4.0), body_wait_s=settings.pop("body_wait_s", 30))
        self.limits = Limits(
            LearnwareMiddleware(
                self._answer, admission=Admission(names), secret=SECRET, metrics=ReplicaMetrics(CollectorRegistry())
            ),
            settings=ReplicaLimits(LimitSettings(**settings), http, 2, NAMES.auto_names),
            engine=SimpleNamespace(residency=SimpleNamespace(scheduler=None)),
            able=lambda: self.able,
        )

    async def _answer(self, scope, receive, send):
        message = await receive()
        self.seen.append(json.loads(message["body"]))
        if len(self.seen) >= self.awaited:
            self.arrived.set()
        if self.took is not None:
            with counted(TokenCount(incremental=False)) as count:
                await self.open.wait()
                prompt, answer = self.took
                sequence = SimpleNamespace(index=0, token_ids=[0] * answer)
                count(SimpleNamespace(prompt_token_ids=[0] * prompt, outputs=[sequence]))
        if scope["path"] != "/tokenize":
            await self.open.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def ask(self, payload, tenant=ANONYMOUS, path=CHAT, headers=None) -> httpx.Response:
        token = caller.set(tenant)
        try:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=self.limits), base_url="http://replica"
            ) as client:
                content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                sent = {"content-type": "application/json", **choice(), **(headers or {})}
                return await client.post(path, content=content, headers=sent)
        finally:
            caller.reset(token)


def error(response: httpx.Response) -> dict[str, str]:
    return response.json()["error"]


async def test_a_body_beyond_the_bound_is_refused_by_its_header_unread():
    replica = Replica(max_body_mib=0.001)
    response = await replica.ask({"model": "auto", "x": "y" * 2000})
    assert (response.status_code, error(response)["code"]) == (413, "body_too_large")
    assert "http.max_body_mib" in error(response)["message"]
    assert replica.seen == []
    assert (await replica.ask({"model": "auto"})).status_code == 200


async def drive(app, messages, headers=()):
    """Calls an ASGI application; returns the status and how many of the messages it received."""
    sent, received = [], 0

    async def receive():
        nonlocal received
        if received == len(messages):
            await asyncio.sleep(3600)
        received += 1
        return messages[received - 1]

    async def send(message):
        sent.append(message)

    kind = [(b"content-type", b"application/json"), *headers]
    await app({"type": "http", "method": "POST", "path": CHAT, "headers": kind}, receive, send)
    return (sent[0]["status"] if sent else None), received


@pytest.mark.parametrize("headers", [(), ((b"content-length", b"10"),)])
async def test_a_body_is_counted_while_it_is_read_and_no_more_of_it_is(headers):
    replica = Replica(max_body_mib=0.001)
    part = {"type": "http.request", "body": b"x" * 600, "more_body": True}
    assert await drive(replica.limits, [part] * 5, headers) == (413, 2)


async def test_a_length_that_is_no_number_or_longer_than_any_is_not_believed():
    replica = Replica()
    whole = {"type": "http.request", "body": b'{"model": "auto"}', "more_body": False}
    assert (await drive(replica.limits, [whole], [(b"content-length", b"9" * 5000)]))[0] == 413
    assert (await drive(replica.limits, [whole], [(b"content-length", b"\xb2")]))[0] is not None


@pytest.mark.slow
async def test_a_body_that_stalls_is_given_up():
    replica = Replica(body_wait_s=1)
    part = {"type": "http.request", "body": b"{", "more_body": True}
    assert await drive(replica.limits, [part, part]) == (408, 2)
    assert await drive(replica.limits, [part, {"type": "http.disconnect"}]) == (None, 2)


async def test_a_replica_whose_engine_cannot_serve_says_so_and_its_other_paths_go_on():
    replica = Replica()
    replica.able = False
    response = await replica.ask({"model": "auto"})
    assert (response.status_code, error(response)["code"]) == (503, "engine_unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert (await replica.ask({"model": "auto"}, path="/tokenize")).status_code == 200


async def full(replica: Replica, tenant: Tenant, requests: int, **fields: object) -> list[asyncio.Task[httpx.Response]]:
    """Sends requests that do not end before `open` is set; returns when they are admitted."""
    replica.open.clear()
    replica.awaited = len(replica.seen) + requests
    replica.arrived.clear()
    tasks = [asyncio.create_task(replica.ask({"model": "base-8b", **fields}, tenant)) for _ in range(requests)]
    await asyncio.wait_for(replica.arrived.wait(), 5)
    return tasks


async def test_a_full_replica_answers_429_at_once_and_takes_requests_again_when_there_is_room():
    replica = Replica(max_waiting=3)
    running = await full(replica, ANONYMOUS, 5)
    response = await replica.ask(b"what is not even read", path="/v1/completions")
    assert (response.status_code, error(response)["type"]) == (429, "rate_limit_error")
    assert int(response.headers["retry-after"]) >= 1
    assert (await replica.ask({"model": "auto", "n": 2}, path="/tokenize")).status_code == 200
    replica.open.set()
    assert [one.status_code for one in await asyncio.gather(*running)] == [200] * 5
    assert (await replica.ask({"model": "auto"})).status_code == 200


async def test_sequences_count_and_not_requests():
    replica = Replica(max_waiting=8)
    await full(replica, ANONYMOUS, 1, n=8)
    assert (await replica.ask({"model": "auto", "n": 3})).status_code == 429
    assert (await replica.ask({"model": "auto", "prompt": ["a"] * 3}, path="/v1/completions")).status_code == 429
    assert (await replica.ask({"model": "auto", "n": 11})).status_code == 400
    await full(replica, ANONYMOUS, 1, n=2)


async def test_a_tenant_that_floods_does_not_keep_another_out():
    replica = Replica(max_waiting=4)
    flood, other = Tenant("flood"), Tenant("other")
    await full(replica, flood, 6)
    assert (await replica.ask({"model": "auto"}, flood)).status_code == 429
    await full(replica, other, 3)
    assert (await replica.ask({"model": "auto"}, other)).status_code == 429


async def test_places_are_given_back_when_a_request_is_refused_or_hung_up():
    replica = Replica()
    assert (await replica.ask({"model": "no such"})).status_code == 404
    assert (await replica.ask({"model": "auto", "n": 17})).status_code == 400
    (task,) = await full(replica, ANONYMOUS, 1)
    assert replica.limits.places.used == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert replica.limits.places.used == 0


@pytest.mark.parametrize(
    ("path", "fields", "limit"),
    [
        (CHAT, {"n": 17}, "limits.max_choices"),
        ("/v1/completions", {"best_of": 17}, "limits.max_choices"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"n": 17}}, "limits.max_choices"),
        ("/v1/completions", {"prompt": ["a"] * 65}, "limits.max_prompts"),
        ("/v1/chat/completions/batch", {"messages": [[]] * 65}, "limits.max_prompts"),
        ("/generative_scoring", {"items": ["a"] * 65}, "limits.max_prompts"),
        ("/invocations", {"prompt": ["a"] * 65}, "limits.max_prompts"),
    ],
)
async def test_more_choices_or_prompts_than_allowed_are_refused_by_name(path, fields, limit):
    replica = Replica()
    response = await replica.ask({"model": "finance-tfns", **fields}, path=path)
    assert response.status_code == 400
    assert limit in error(response)["message"]
    assert replica.seen == []


LIMITED = Tenant("limited", max_tokens=100)


@pytest.mark.parametrize(
    ("path", "fields", "reaches"),
    [
        (CHAT, {}, {"max_tokens": 100}),
        (CHAT, {"max_tokens": 20}, {"max_tokens": 20}),
        (CHAT, {"max_completion_tokens": 500, "max_tokens": 5}, {"max_tokens": 100}),
        ("/v1/completions", {"prompt": "a"}, {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}, {"input": "a", "max_output_tokens": 100}),
        ("/v1/responses", {"max_output_tokens": 101}, {"max_output_tokens": 100}),
        (
            "/inference/v1/generate",
            {"sampling_params": {"top_k": 1}},
            {"sampling_params": {"top_k": 1, "max_tokens": 100}},
        ),
        ("/inference/v1/generate", {"sampling_params": 5}, {"sampling_params": 5}),
    ],
)
async def test_answers_of_a_tenant_are_as_long_as_its_key_allows(path, fields, reaches):
    replica = Replica()
    assert (await replica.ask({"model": "auto", **fields}, LIMITED, path)).status_code == 200
    assert replica.seen == [{"model": "finance-tfns", **reaches}]


async def test_a_named_model_is_not_given_less_than_was_asked_for():
    replica = Replica()
    response = await replica.ask({"model": "base-8b", "max_tokens": 101}, LIMITED)
    assert response.status_code == 400
    assert "max_tokens is larger than 100, the most" in error(response)["message"]
    small = Tenant("small", max_tokens=5)
    assert (await replica.ask({"model": "base-8b"}, small, "/v1/completions")).status_code == 200
    assert replica.seen[-1]["max_tokens"] == 5


@pytest.mark.parametrize(
    ("models", "model", "answers"),
    [
        (("finance-tfns",), "finance-tfns", "finance-tfns"),
        (("finance-tfns",), "base-8b", None),
        (("finance-tfns",), "healthcare-pubmedqa", None),
        (("finance-tfns",), "auto", None),
        (("finance-tfns",), TASK, None),
        (("finance-tfns",), None, None),
        (("base-8b",), None, "base-8b"),
        (("auto",), "auto", "finance-tfns"),
        (("auto",), TASK, "finance-tfns"),
        (("auto",), "finance-tfns", None),
        (("auto", "finance-tfns"), "auto", "finance-tfns"),
        (("auto", "healthcare-pubmedqa"), "auto", "healthcare-pubmedqa"),
        (("auto", "base-8b"), "auto", "base-8b"),
        (("auto", "elsewhere"), "auto", None),
        ((), "auto", None),
    ],
)
async def test_a_tenant_is_answered_by_the_models_that_its_key_allows(models, model, answers):
    replica = Replica()
    reason = "task" if model == TASK else "matched"
    routed = RoutedChoice("finance-tfns", reason, 0.875, 0.42, "healthcare-pubmedqa")
    payload = {} if model is None else {"model": model}
    response = await replica.ask(
        payload, Tenant("some", models=models), headers={CHOICE_HEADER: encode_choice(routed, SECRET)}
    )
    if answers is None:
        assert (response.status_code, error(response)["code"]) == (404, "model_not_found")
        assert replica.seen == []
    else:
        assert response.headers["x-learnware"] == answers


@pytest.mark.parametrize(
    ("models", "model", "status"),
    [
        (("auto", "finance-tfns"), "auto", 200),
        (("finance-tfns",), CANARY, 200),
        ((CANARY,), CANARY, 200),
        ((CANARY,), "finance-tfns", 404),
        (("auto", "elsewhere"), "auto", 404),
        (("elsewhere",), CANARY, 404),
    ],
)
async def test_who_may_use_a_learnware_may_be_answered_by_its_canary(models, model, status):
    names = NAMES._replace(learnwares=NAMES.learnwares | {CANARY: f"{CANARY}@2"})
    replica = Replica(names=names)
    routed = encode_choice(RoutedChoice(CANARY, "matched:canary", 0.875, 0.42, "finance-tfns"), SECRET)
    response = await replica.ask({"model": model}, Tenant("some", models=models), headers={CHOICE_HEADER: routed})
    assert response.status_code == status
    if status == 200:
        assert response.headers["x-learnware"] == CANARY


async def test_tokens_a_minute_are_charged_as_the_engine_takes_them_and_the_headers_say_what_is_left():
    replica = Replica(took=(30, 70))
    tenant = Tenant("some", tokens_per_minute=6000)
    payload = {"model": "base-8b", "max_tokens": 4000}
    response = await replica.ask(payload, tenant)
    assert response.headers["x-ratelimit-limit-tokens"] == "6000"
    assert int(response.headers["x-ratelimit-remaining-tokens"]) == pytest.approx(1990, abs=30)
    assert int(
        (await replica.ask({"model": "base-8b", "max_tokens": 1}, tenant)).headers["x-ratelimit-remaining-tokens"]
    ) == pytest.approx(5900, abs=30)
    replica.took = (3000, 3000)
    assert (await replica.ask(payload, tenant)).status_code == 200
    refused = await replica.ask(payload, tenant)
    assert (refused.status_code, error(refused)["code"]) == (429, "rate_limit_exceeded")
    assert "tokens a minute" in error(refused)["message"]
    assert int(refused.headers["retry-after"]) == pytest.approx(41, abs=3)
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
    assert (await replica.ask(payload, Tenant("other", tokens_per_minute=6000))).status_code == 200
    assert "x-ratelimit-limit-tokens" not in (await replica.ask(payload)).headers


async def test_what_the_engine_was_never_given_costs_nothing_and_what_was_hung_up_costs_the_estimate():
    replica = Replica()
    tenant = Tenant("some", tokens_per_minute=6000)
    for _ in range(20):
        assert (await replica.ask({"model": "base-8b", "max_tokens": 4000}, tenant)).status_code == 200
    replica.took = (1, 1)
    (task,) = await full(replica, tenant, 1, max_tokens=4000)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    replica.open.set()
    assert (await replica.ask({"model": "base-8b", "max_tokens": 4000}, tenant)).status_code == 429


async def test_without_keys_the_configurations_limit_holds_and_a_key_has_its_own():
    replica = Replica(tokens_per_minute=100, took=(100, 100))
    payload = {"model": "base-8b", "max_tokens": 10}
    assert (await replica.ask(payload)).status_code == 200
    assert (await replica.ask(payload)).status_code == 429
    assert (await replica.ask(payload, Tenant("unlimited"))).status_code == 200


@pytest.mark.parametrize("path", GENERATING_PATHS)
async def test_every_path_that_generates_is_limited(path):
    replica = Replica(max_waiting=1)
    await full(replica, ANONYMOUS, 3)
    assert (await replica.ask({"model": "base-8b"}, path=path)).status_code == 429

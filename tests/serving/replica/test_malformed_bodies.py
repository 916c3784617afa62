"""Bodies of any shape: the replica's own code answers each with a refusal or passes it on, and never fails."""

import asyncio
import json
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from prometheus_client import CollectorRegistry

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

FIELDS = (
    *("model", "messages", "prompt", "input", "items", "query", "token_ids", "n", "best_of", "max_tokens", "priority"),
    *("max_completion_tokens", "max_output_tokens", "sampling_params", "extra_args", "vllm_xargs", "learnware", "stop"),
    *("stream", "stream_options", "tools", "tool_choice", "response_format", "reasoning_effort", "cache_salt", "name"),
    *("logprob_token_ids", "prompt_logprobs", "prompt_embeds", "role", "content", "echo", "logprobs"),
)
TENANTS = (
    ANONYMOUS,
    Tenant("small", tokens_per_minute=50, max_tokens=3, models=("auto", "finance-tfns"), weight=0.1),
    Tenant("none", models=()),
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    st.text(),
    st.text(alphabet=st.characters(categories=("Cs", "Cc"))),
    st.sampled_from(["auto", "base-8b", "finance-tfns", TASK, "9" * 400, "nan", "-1", "", "\ud800"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text()), inner, max_size=5)
    ),
    max_leaves=20,
)
bodies = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=8).map(json.dumps).map(str.encode),
    values.map(json.dumps).map(str.encode),
    st.binary(max_size=200),
    st.tuples(st.dictionaries(st.sampled_from(FIELDS), values).map(json.dumps), st.integers(0, 200)).map(
        lambda cut: cut[0][: cut[1]].encode()
    ),
)


def replica() -> Limits:
    async def answer(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    inner = LearnwareMiddleware(
        answer, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(CollectorRegistry())
    )
    return Limits(
        inner,
        settings=ReplicaLimits(LimitSettings(), HTTPSettings(), 4, NAMES.auto_names),
        engine=SimpleNamespace(residency=SimpleNamespace(scheduler=None)),
    )


APP = replica()


async def ask(body: bytes, path: str, tenant: Tenant) -> httpx.Response:
    token = caller.set(tenant)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=APP), base_url="http://replica") as client:
            headers = {"content-type": "application/json", "x-vllm-priority": "-9", **choice()}
            return await client.post(path, content=body, headers=headers)
    finally:
        caller.reset(token)


def check(body: bytes, path: str, tenant: Tenant) -> None:
    response = asyncio.run(ask(body, path, tenant))
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        fields = {"message", "type"} if path == "/v1/messages" else {"message", "type", "param", "code"}
        assert set(response.json()["error"]) == fields
        assert len(response.content) < 2000
    assert APP.places.used == 0


cases = given(body=bodies, path=st.sampled_from([*GENERATING_PATHS, "/tokenize"]), tenant=st.sampled_from(TENANTS))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@cases
@example(b'{"model": "auto", "n": 1e400}', "/v1/completions", ANONYMOUS)
@example(b'{"model": "auto", "n": NaN, "max_tokens": -Infinity}', "/v1/completions", TENANTS[1])
@example(b'{"model": "\\ud800"}', "/v1/completions", ANONYMOUS)
@example(b'{"model": "task:\\ud800"}', "/v1/completions", ANONYMOUS)
@example(b'{"model": "\\ud800"}', "/v1/completions", TENANTS[1])
@example(b'{"model": "auto", "model": "base-8b", "model": 5}', "/v1/chat/completions", ANONYMOUS)
@example(b'{"model": "auto", "n": ' + b"9" * 4000 + b"}", "/v1/completions", ANONYMOUS)
@example(b'{"a":' * 100_000, "/v1/completions", ANONYMOUS)
@example(b"[" * 100_000 + b"]" * 100_000, "/v1/completions", ANONYMOUS)
@example(b"\xef\xbb\xbf{}", "/v1/completions", ANONYMOUS)
@example('{"model": "auto"}'.encode("utf-16"), "/v1/completions", ANONYMOUS)
def test_no_body_makes_the_replicas_own_code_fail(body, path, tenant):
    check(body, path, tenant)


@pytest.mark.extra
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@cases
def test_nor_do_many_others(body, path, tenant):
    check(body, path, tenant)


@pytest.mark.parametrize("length", [1_000, 1_000_000])
def test_a_long_name_is_not_repeated(length):
    response = asyncio.run(ask(json.dumps({"model": "x" * length}).encode(), "/v1/completions", ANONYMOUS))
    assert response.status_code == 404
    assert len(response.content) < 1000

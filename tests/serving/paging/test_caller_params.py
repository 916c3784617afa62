"""What a tenant's request becomes on its way into vLLM, in all forms that vLLM takes, down to the engine core's own
objects."""

import copy
import warnings
from collections.abc import AsyncGenerator
from contextlib import contextmanager
from typing import Any

import pytest

from serving.access.caller import caller
from serving.access.tenant import ANONYMOUS, Tenant
from serving.paging.settings import EXTRA_ARGS, Share

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from vllm.engine.protocol import StreamingInput
    from vllm.inputs.engine import build_enc_dec_input, embeds_input, split_enc_dec_input, tokens_input
    from vllm.pooling_params import PoolingParams
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.parallel_sampling import ParentRequest
    from vllm.v1.request import Request
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    from serving.paging.caller_params import IDLE, LOWEST_PRIORITY, PRIORITY_HEAD_START, head_start, with_caller
    from serving.paging.gate import AdapterGate
    from serving.paging.idle import as_idle_work
    from serving.paging.scheduler import share_of

pytestmark = pytest.mark.vllm

ANN = Tenant("ann", weight=3.0, priority=-2)
SHARE = Share("ann", 3.0, 0.0)


@contextmanager
def asked_by(tenant: Tenant):
    before = caller.set(tenant)
    try:
        yield
    finally:
        caller.reset(before)


def entered(prompt: Any, parameters: Any = None, tenant: Tenant = ANN, **more: Any) -> tuple[Any, Any, dict[str, Any]]:
    with asked_by(tenant):
        (prompt, parameters), kwargs = with_caller((prompt, parameters or SamplingParams()), more)
    return prompt, parameters, kwargs


def test_the_parameters_carry_the_tenant_and_those_that_came_in_are_not_changed():
    shared = SamplingParams(extra_args={"a": 1, EXTRA_ARGS: {"tenant": "bob", "weight": 1e9}}, n=2)
    prompt = tokens_input([1])
    salted, parameters, _ = entered(prompt, shared)
    assert Share.of(parameters.extra_args) == SHARE
    assert parameters.extra_args["a"] == 1
    assert parameters.n == 2
    assert shared.extra_args == {"a": 1, EXTRA_ARGS: {"tenant": "bob", "weight": 1e9}}
    assert salted["cache_salt"] == "ann"
    assert "cache_salt" not in prompt


def test_named_arguments_are_changed_as_well():
    with asked_by(ANN):
        _, kwargs = with_caller(
            (), {"prompt": "hello", "sampling_params": SamplingParams(), "request_id": "1", "priority": -9}
        )
    assert kwargs["prompt"] == {"prompt": "hello", "cache_salt": "ann"}
    assert Share.of(kwargs["sampling_params"].extra_args).head_start == 2 * PRIORITY_HEAD_START
    assert kwargs["request_id"] == "1"
    assert "priority" not in kwargs


@pytest.mark.parametrize(
    ("granted", "asked", "steps"),
    [(0, -9, 0), (0, 0, 0), (-2, -1, 1), (-2, -9, 2), (-2, 0, 0), (0, 3, -3), (-2, 3, -3), (5, -1, 0), (5, 0, 0)],
)
def test_a_priority_counts_as_far_as_the_key_grants_it(granted, asked, steps):
    assert head_start(Tenant("ann", priority=granted), asked) == steps * PRIORITY_HEAD_START


def test_a_priority_as_long_as_a_client_likes_is_only_the_lowest():
    assert head_start(ANN, 10**400) == -LOWEST_PRIORITY * PRIORITY_HEAD_START
    assert head_start(ANN, -(10**400)) == 2 * PRIORITY_HEAD_START


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hello", {"prompt": "hello", "cache_salt": "ann"}),
        ([1, 2], {"prompt_token_ids": [1, 2], "cache_salt": "ann"}),
        ({"prompt": "hello", "cache_salt": "own"}, {"prompt": "hello", "cache_salt": "ann:own"}),
        ({"prompt_token_ids": [1]}, {"prompt_token_ids": [1], "cache_salt": "ann"}),
        (tokens_input([1], cache_salt="own"), tokens_input([1], cache_salt="ann:own")),
        (embeds_input("tensor"), embeds_input("tensor", cache_salt="ann")),
        (
            {"encoder_prompt": "hello", "decoder_prompt": None},
            {
                "encoder_prompt": {"prompt": "hello", "cache_salt": "ann"},
                "decoder_prompt": None,
                "cache_salt": "ann",
            },
        ),
    ],
    ids=["text", "tokens", "text prompt", "tokens prompt", "engine input", "embeddings", "encoder and decoder"],
)
def test_every_form_of_prompt_is_salted_and_a_clients_own_salt_is_kept(prompt, expected):
    before = copy.deepcopy(prompt)
    assert entered(prompt)[0] == expected
    assert prompt == before
    assert entered(prompt, tenant=ANONYMOUS)[0] == before


@pytest.mark.parametrize(("own", "expected"), [("own", "ann:own"), (None, "ann")])
def test_the_decoder_of_an_encoder_and_decoder_is_salted(own, expected):
    prompt = build_enc_dec_input(tokens_input([1], cache_salt=own), tokens_input([2]), 0)
    _, decoder = split_enc_dec_input(entered(prompt)[0])
    assert decoder["cache_salt"] == expected


def test_no_salt_of_one_tenant_is_that_of_another():
    salts = {
        entered(tokens_input([1], cache_salt=own), tenant=Tenant(name))[0]["cache_salt"]
        for name in ("a", "a.b", "a-b")
        for own in (None, "a", "b", "a:b", ":")
    }
    assert len(salts) == 15


async def test_each_input_of_a_stream_is_salted_and_shared():
    async def inputs() -> AsyncGenerator[StreamingInput]:
        yield StreamingInput(tokens_input([1]))
        yield StreamingInput(tokens_input([2]), SamplingParams())

    first, second = [one async for one in entered(inputs())[0]]
    assert first.prompt["cache_salt"] == second.prompt["cache_salt"] == "ann"
    assert first.sampling_params is None
    assert Share.of(second.sampling_params.extra_args) == SHARE


def test_a_pooling_request_is_salted_and_belongs_to_no_tenant():
    pooling = PoolingParams()
    prompt, parameters, _ = entered(tokens_input([1]), pooling)
    assert parameters is pooling
    assert prompt["cache_salt"] == "ann"
    request = Request("1", [1], None, pooling)
    assert share_of(request) == Share()


def core_request(prompt: dict[str, Any], parameters: SamplingParams) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id="1",
        external_req_id="1",
        prompt_token_ids=prompt["prompt_token_ids"],
        mm_features=None,
        sampling_params=parameters,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=prompt["cache_salt"],
        data_parallel_rank=None,
    )


@pytest.mark.parametrize("seed", [None, 7])
def test_share_and_salt_reach_the_engine_core_with_each_of_several_answers(seed):
    """Through the copies that vLLM makes for `n` answers and through its messages between processes."""
    prompt, parameters, _ = entered(tokens_input([1, 2]), SamplingParams(n=3, seed=seed, max_tokens=5), priority=-1)
    parent = core_request(prompt, parameters.clone())
    parents = ParentRequest(parent)
    for index in range(3):
        child = copy.copy(parent)
        child.request_id, child.sampling_params = parents.get_child_info(index)
        sent = MsgpackDecoder(EngineCoreRequest).decode(MsgpackEncoder().encode(child))
        request = Request.from_engine_core_request(sent, None)
        assert share_of(request) == Share("ann", 3.0, PRIORITY_HEAD_START)
        assert request.cache_salt == "ann"
        assert request.priority == 0


def test_a_request_that_was_made_before_is_salted_and_not_changed():
    before = core_request(tokens_input([1], cache_salt="own"), SamplingParams())
    assert entered(before)[0].cache_salt == "ann:own"
    assert before.cache_salt == "own"


async def test_the_gate_lets_requests_in_as_their_tenant_may_give_them():
    seen: list[Any] = []

    async def generate(prompt: Any, parameters: Any, **kwargs: Any) -> AsyncGenerator[str]:
        seen.append((prompt, Share.of(parameters.extra_args), kwargs))
        yield "answer"

    with asked_by(ANN):
        stream = AdapterGate("nobody", 1).around(generate)(tokens_input([1]), SamplingParams(), priority=-9)
        assert [output async for output in stream] == ["answer"]
    expected = Share("ann", 3.0, 2 * PRIORITY_HEAD_START)
    assert seen == [(tokens_input([1], cache_salt="ann"), expected, {"lora_request": None})]


def test_idle_work_has_no_tenants_share_and_keeps_the_tenants_prefixes_apart():
    with as_idle_work():
        prompt, parameters, kwargs = entered("hello", priority=-9)
    assert Share.of(parameters.extra_args) == IDLE == Share(None, 1.0, 0.0, idle=True)
    assert prompt["cache_salt"] == "ann"
    assert kwargs == {}


@pytest.mark.parametrize("priority", [-9, 0, LOWEST_PRIORITY, 1 << 62])
def test_nothing_that_a_client_puts_into_a_request_makes_it_idle_work(priority: int):
    forged = SamplingParams(extra_args={EXTRA_ARGS: {"idle": True}, "idle": True, "idle_work": True})
    _, parameters, kwargs = entered("hello", forged, priority=priority)
    assert not Share.of(parameters.extra_args).idle
    assert parameters.extra_args[EXTRA_ARGS]["tenant"] == "ann"
    assert kwargs == {}

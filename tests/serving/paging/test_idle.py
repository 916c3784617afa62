"""Idle work at the gate, over real sockets: it is no request, in no figure, and nothing limits its time."""

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context
from typing import Any

import pytest
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams

from serving.access.caller import caller
from serving.access.tenant import Tenant
from serving.paging.idle import as_idle_work, is_idle_work
from serving.paging.inflight import Exchange, TimeLimits, exchange
from serving.paging.settings import Share
from tests.serving.paging.test_gate import adapter, engine, until

pytestmark = pytest.mark.vllm


class Runs:
    """Runs of the engine that last until they are told to end, and what they were given."""

    def __init__(self) -> None:
        self.shares: list[Share] = []
        self.end = asyncio.Event()

    async def generate(
        self, prompt: Any, params: SamplingParams, *, lora_request: LoRARequest | None = None
    ) -> AsyncIterator[str]:
        self.shares.append(Share.of(params.extra_args))
        await self.end.wait()
        yield "out"


async def run(entered: Any, lora_request: LoRARequest | None) -> list[str]:
    caller.set(Tenant("ann"))
    exchange.set(Exchange())
    return [output async for output in entered("x", SamplingParams(), lora_request=lora_request)]


async def run_idle(entered: Any, lora_request: LoRARequest | None) -> list[str]:
    with as_idle_work():
        return await asyncio.create_task(run(entered, lora_request))  # as vLLM does: in a task of its own


async def test_idle_work_is_counted_apart_and_is_nobodys_usage() -> None:
    async with engine() as ((worker,), _, gate):
        runs, usages, entries = Runs(), [], []
        gate.on_usage, gate.on_entry = usages.append, lambda: entries.append((gate.entered, gate.idle))
        entered = gate.around(runs.generate)
        worker.open.clear()
        idle = asyncio.create_task(run_idle(entered, adapter(1)), context=Context())
        await until(lambda: bool(worker.tier.cache.leased))
        assert (gate.waiting, gate.entered, gate.idle) == (0, 0, 0)  # it waits for its adapter, and is no request
        worker.open.set()
        await until(lambda: gate.idle == 1)
        assert (gate.waiting, gate.entered, dict(gate.adapters), entries) == (0, 0, {"a1@1": 1}, [])
        tasks = [asyncio.create_task(run(entered, one), context=Context()) for one in (adapter(1), None)]
        await until(lambda: gate.entered == 2)
        assert dict(gate.adapters) == {"a1@1": 2}
        assert entries == [(1, 1), (2, 1)]
        runs.end.set()
        assert await idle == ["out"]
        await asyncio.gather(*tasks)
        assert (gate.entered, gate.idle, dict(gate.adapters)) == (0, 0, {})
        assert [one.tenant for one in usages] == ["ann", "ann"]
        assert [one.idle for one in runs.shares] == [True, False, False]
        assert [one.tenant for one in runs.shares] == [None, "ann", "ann"]


async def test_the_time_limits_of_requests_are_not_those_of_idle_work() -> None:
    async with engine() as (_, _, gate):
        gate._limits = TimeLimits(first_token_s=0.0, between_tokens_s=0.0)
        runs = Runs()
        entered = gate.around(runs.generate)
        idle = asyncio.create_task(run_idle(entered, None), context=Context())
        request = asyncio.create_task(run(entered, None), context=Context())
        await until(lambda: (gate.idle, gate.entered) == (1, 1))
        await until(lambda: request.done())  # the gate looks once a second
        assert "did not come within the time" in str(request.exception())
        runs.end.set()
        assert await idle == ["out"]


async def test_the_mark_is_a_tasks_own_and_ends_with_its_context() -> None:
    async def seen() -> bool:
        return is_idle_work()

    with as_idle_work():
        assert is_idle_work()
        assert await asyncio.create_task(seen())
        assert not await asyncio.create_task(seen(), context=Context())
    assert not is_idle_work()

"""Requests in flight, ended from outside, behind a gate whose engine is a stand-in: no worker, no engine."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from vllm.exceptions import GracefulHTTPError
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from serving.paging.gate import AdapterGate
from serving.paging.inflight import (
    DeadEngine,
    Exchange,
    LateAnswer,
    TimeLimits,
    exchange,
    parameters_of,
    seconds_allowed,
)

pytestmark = pytest.mark.vllm


class Engine:
    """Puts out a number whenever it is told to, as `AsyncLLM.generate` does; it notes what it was aborted from."""

    def __init__(self) -> None:
        self.outputs: asyncio.Queue[Any] = asyncio.Queue()
        self.running = 0
        self.aborted = 0

    async def generate(self, prompt: str, params: Any, request_id: str, **_: Any) -> AsyncIterator[Any]:
        self.running += 1
        try:
            while (output := await self.outputs.get()) is not None:
                if isinstance(output, Exception):
                    raise output
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted += 1
            raise
        finally:
            self.running -= 1


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def gate():
    return AdapterGate("test", 0, TimeLimits(first_token_s=10, between_tokens_s=2))


@contextlib.contextmanager
def served():
    """An HTTP exchange that the running task, and the tasks that it starts, serve."""
    running = Exchange()
    token = exchange.set(running)
    try:
        yield running
    finally:
        exchange.reset(token)


def consume(gate: AdapterGate, engine: Engine, params: Any = None) -> "asyncio.Task[list[Any]]":
    async def run() -> list[Any]:
        return [output async for output in gate.around(engine.generate)("a prompt", params, "id")]

    return asyncio.create_task(run())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_an_inner_task_waits_for_is_aborted_when_nobody_waits_for_the_answer(gate, engine):
    with served() as running:
        inner = consume(gate, engine)
        await settle()
        assert (engine.running, gate.entered) == (1, 1)
        await running.abandon()
        assert (engine.running, engine.aborted, gate.entered) == (0, 1, 0)
    with pytest.raises(asyncio.CancelledError):
        await inner


async def test_a_stream_whose_consumer_stands_still_is_aborted_too(gate, engine):
    with served() as running:
        outputs = gate.around(engine.generate)("a prompt", None, "id")
        engine.outputs.put_nowait(1)
        assert await anext(outputs) == 1
        assert running.began
        await running.abandon()
        assert (engine.running, engine.aborted, gate.entered) == (0, 1, 0)
        assert [output async for output in outputs] == []


async def test_a_request_that_would_enter_after_the_client_has_gone_does_not(gate, engine):
    with served() as running:
        await running.abandon()
        late = consume(gate, engine)
        with pytest.raises(asyncio.CancelledError):
            await late
    assert engine.aborted == engine.running == 0


async def test_a_complete_answer_leaves_what_goes_on_in_the_background(gate, engine):
    with served() as running:
        background = consume(gate, engine)
        await settle()
        running.complete = True
        await running.abandon()
    assert engine.running == 1
    engine.outputs.put_nowait(None)
    assert await background == []


async def test_other_exchanges_go_on(gate, engine):
    with served():
        other = consume(gate, engine)
        await settle()
    with served() as running:
        consume(gate, engine)
        await settle()
        await running.abandon()
    assert (engine.running, engine.aborted) == (1, 1)
    engine.outputs.put_nowait(7)
    engine.outputs.put_nowait(None)
    assert await other == [7]


@pytest.mark.parametrize(
    ("outputs", "seconds", "late"), [([], 9, False), ([], 11, True), ([1], 1, False), ([1], 3, True)]
)
async def test_the_first_output_and_each_further_one_has_its_time(gate, engine, outputs, seconds, late):
    with served() as running:
        consumer = consume(gate, engine)
        for output in outputs:
            engine.outputs.put_nowait(output)
        await settle()
        for one in tuple(running.inflight):
            one.expire(time.monotonic() + seconds)
        await settle()
        assert consumer.done() == late
        if late:
            with pytest.raises(LateAnswer, match="next token" if outputs else "first token") as error:
                await consumer
            assert error.value.http_status == error.value.status == 504
            assert running.failure is error.value
            assert engine.aborted == 1
        else:
            consumer.cancel()


async def test_a_slow_consumer_is_not_late(gate, engine):
    with served() as running:
        outputs = gate.around(engine.generate)("a prompt", None, "id")
        engine.outputs.put_nowait(1)
        await anext(outputs)
        for one in tuple(running.inflight):
            one.expire(time.monotonic() + 1000)
        engine.outputs.put_nowait(2)
        assert await anext(outputs) == 2
        await outputs.aclose()


async def test_the_gate_looks_for_late_ones_by_itself(engine, monkeypatch):
    monkeypatch.setattr("serving.paging.gate.LIMITS_LOOK_S", 0.01)
    gate = AdapterGate("test", 0, TimeLimits(first_token_s=0.02, between_tokens_s=2))
    await gate.connect(paged=False)
    try:
        with pytest.raises(LateAnswer):
            await asyncio.wait_for(consume(gate, engine), 5)
    finally:
        await gate.close()


async def test_the_task_of_a_request_that_was_ended_is_not_left_cancelled(gate, engine):
    async def run() -> int:
        with contextlib.suppress(DeadEngine):
            async for _ in gate.around(engine.generate)("a prompt", None, "id"):
                pass
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(run())
    await settle()
    gate.end_all(DeadEngine("it died"))
    assert await task == 0


async def test_a_dead_engine_ends_all_with_the_reason_waiting_or_not(gate, engine):
    with served() as first:
        waiting = consume(gate, engine)
        await settle()
    with served() as second:
        outputs = gate.around(engine.generate)("a prompt", None, "id")
        engine.outputs.put_nowait(1)
        await settle()
        waiting_for_more = consume(gate, engine)
        engine.outputs.put_nowait(2)
        await anext(outputs)
        await settle()
        gate.end_all(DeadEngine("its scheduler does not answer"))
        await settle()
    with pytest.raises(DeadEngine, match="does not answer"):
        await waiting
    with pytest.raises(DeadEngine, match="does not answer"):
        await waiting_for_more
    assert isinstance(first.failure, DeadEngine)
    assert isinstance(second.failure, DeadEngine)
    assert engine.running == gate.entered == 0


async def test_vllms_word_for_a_dead_engine_becomes_a_502(gate, engine):
    with served() as running:
        consumer = consume(gate, engine)
        engine.outputs.put_nowait(EngineDeadError())
        with pytest.raises(GracefulHTTPError) as error:
            await consumer
    assert error.value.http_status == 502
    assert running.failure is error.value


async def test_an_error_of_the_request_is_noted_and_passed_on(gate, engine):
    with served() as running:
        consumer = consume(gate, engine)
        engine.outputs.put_nowait(ValueError("too long"))
        with pytest.raises(ValueError, match="too long") as error:
            await consumer
    assert running.failure is error.value


def test_an_answer_in_one_piece_may_take_as_long_as_all_its_tokens():
    limits = TimeLimits(first_token_s=10, between_tokens_s=2)
    whole = SamplingParams(max_tokens=7, output_kind=RequestOutputKind.FINAL_ONLY)
    stream = SamplingParams(max_tokens=7, output_kind=RequestOutputKind.DELTA)
    assert seconds_allowed(limits, whole) == 24
    assert seconds_allowed(limits, stream) == 10
    assert seconds_allowed(limits, None) == 10
    assert seconds_allowed(TimeLimits(), whole) == float("inf")
    assert parameters_of(("prompt", whole), {}) is whole
    assert parameters_of((), {"sampling_params": whole}) is whole
    assert parameters_of((), {}) is None

"""The gate and the sockets behind it, over real sockets, with a host tier that reads from no disk: no engine."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from serving.access.account import Account, account
from serving.access.caller import caller
from serving.access.tenant import Tenant
from serving.paging.gate import WORKER_GONE, AdapterGate, AdapterNotLoaded
from serving.paging.inflight import Exchange, exchange
from serving.paging.sockets import SCHEDULER, SchedulerSocket, WorkerSocket, socket_path
from serving.paging.tier import HostTier, Loaded
from serving.paging.usage import Usage
from specs.errors import StartupError

pytestmark = pytest.mark.vllm

SIZE, BUDGET = 10, 30
WAIT_S = 5.0


class Worker:
    """One worker's host tier and its socket. Reads can be held up; adapter 9 is broken."""

    def __init__(self, instance: str, rank: int) -> None:
        self.reads: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.changed = threading.Event()
        self.tier: HostTier[LoRARequest, str] = HostTier(
            BUDGET, lambda request: request.lora_int_id, lambda _: SIZE, self._read, self.changed.set
        )
        self.socket = WorkerSocket(
            socket_path(instance, str(rank)), self.changed, self.report, self.tier, self._request
        )

    def report(self) -> dict[str, Any]:
        sizes = self.tier.sizes()
        names = {str(number): f"a{number}@1" for number in sizes}
        return {"slots": [None], "host": {str(number): size for number, size in sizes.items()}, "names": names}

    def close(self) -> None:
        self.open.set()
        self.socket.close()
        self.tier.close()

    @staticmethod
    def _request(message: dict[str, Any]) -> LoRARequest:
        return LoRARequest(message["name"], message["id"], message["path"])

    def _read(self, request: LoRARequest) -> Loaded[str]:
        assert self.open.wait(WAIT_S)
        self.reads.append(request.lora_int_id)
        if request.lora_int_id == 9:
            raise ValueError("matches no layer")
        return Loaded(request.lora_name, SIZE)


class Engine(NamedTuple):
    workers: list[Worker]
    forgotten: list[int]
    gate: AdapterGate


@asynccontextmanager
async def engine(ranks: int = 1) -> AsyncIterator[Engine]:
    instance = f"test-{time.monotonic_ns()}"
    forgotten: list[int] = []
    workers = [Worker(instance, rank) for rank in range(ranks)]
    scheduler = SchedulerSocket(
        socket_path(instance, SCHEDULER), threading.Event(), lambda: {"running": 0}, forgotten.append
    )
    gate = AdapterGate(instance, ranks)
    try:
        await gate.connect(paged=True)
        yield Engine(workers, forgotten, gate)
    finally:
        await gate.close()
        scheduler.close()
        for worker in workers:
            worker.close()
        assert not list(socket_path(instance, "x").parent.glob(f"{instance}-*")), "sockets are left behind"


def adapter(number: int) -> LoRARequest:
    return LoRARequest(f"a{number}@1", number, f"/adapters/{number}")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  # changed by other threads
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("ranks", [1, 2])
async def test_inside_a_lease_the_adapter_is_in_every_workers_memory(ranks: int):
    async with engine(ranks) as (workers, _, gate):
        async with gate.lease(adapter(1)):
            for worker in workers:
                assert worker.tier.held(1) == "a1@1"
                assert worker.tier.cache.leased == {1}
            assert gate.waiting == 0
        for worker in workers:
            await until(lambda worker=worker: not worker.tier.cache.leased)


async def test_a_request_waits_until_its_adapter_is_read_and_others_go_on():
    async with engine() as ((worker,), _, gate):
        async with gate.lease(adapter(1)):
            pass
        worker.open.clear()
        order: list[int] = []

        async def request(number: int) -> None:
            async with gate.lease(adapter(number)):
                order.append(number)

        cold = asyncio.create_task(request(2))
        await until(lambda: gate.waiting == 1)
        await request(1)
        assert order == [1]
        worker.open.set()
        await cold
        assert order == [1, 2]


async def test_a_failure_names_the_adapter_and_the_reason_and_gives_everything_back():
    async with engine(2) as (workers, _, gate):
        with pytest.raises(AdapterNotLoaded, match="'a9@1' could not be loaded: matches no layer") as failed:
            async with gate.lease(adapter(9)):
                pytest.fail("entered")
        assert failed.value.reason == "matches no layer"
        assert gate.waiting == 0
        async with gate.lease(adapter(1)):
            pass
        for worker in workers:
            await until(lambda worker=worker: not worker.tier.cache.leased)
        with pytest.raises(RuntimeError, match=r"^matches no layer$"):
            await gate.add_lora(adapter(9))
        assert await gate.add_lora(adapter(2))


async def test_a_cancelled_request_leaves_no_lease():
    async with engine(2) as (workers, _, gate):
        workers[1].open.clear()

        async def request() -> None:
            async with gate.lease(adapter(3)):
                pytest.fail("entered")

        task = asyncio.create_task(request())
        await until(lambda: bool(workers[0].reads))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        workers[1].open.set()
        for worker in workers:
            await until(lambda worker=worker: bool(worker.reads) and not worker.tier.cache.leased)


async def test_leases_fill_the_budget_and_the_next_waits_for_one_to_end():
    async with engine() as ((worker,), _, gate):
        ends = [asyncio.Event() for _ in range(3)]

        async def request(number: int, end: asyncio.Event) -> None:
            async with gate.lease(adapter(number)):
                await end.wait()

        tasks = [asyncio.create_task(request(number, end)) for number, end in enumerate(ends, 1)]
        await until(lambda: len(worker.tier.sizes()) == 3)
        fourth = asyncio.create_task(request(4, ends[0]))
        await until(lambda: worker.tier.counts.waited_for_room == 1)
        assert gate.waiting == 1
        ends[0].set()
        await fourth
        for end in ends:
            end.set()
        await asyncio.gather(*tasks)


async def test_what_a_task_holds_it_need_not_ask_for_again():
    async with engine() as ((worker,), _, gate):
        async with gate.hold(adapter(1)):
            before = worker.tier.cache.hits + worker.tier.cache.misses
            async with gate.lease(adapter(1)):
                assert worker.tier.cache.hits + worker.tier.cache.misses == before
        async with gate.lease(adapter(1)):
            assert worker.tier.cache.hits + worker.tier.cache.misses == before + 1


async def test_the_lease_lasts_as_long_as_the_request_and_a_client_that_hangs_up_ends_it():
    async with engine() as ((worker,), _, gate):
        closed: list[set[int]] = []

        async def generate(prompt: str, *, lora_request: LoRARequest | None = None) -> AsyncIterator[str]:
            try:
                for number in range(100):
                    yield f"{prompt} {number} {lora_request.lora_name if lora_request else 'base'}"
            finally:
                closed.append(set(worker.tier.cache.leased))

        entered = gate.around(generate)
        assert [output async for output in entered("x")][:2] == ["x 0 base", "x 1 base"]
        stream = entered("y", lora_request=adapter(1))
        assert await anext(stream) == "y 0 a1@1"
        assert (gate.entered, worker.tier.cache.leased) == (1, {1})
        await stream.aclose()
        assert closed == [set(), {1}], "the lease was given back before the request had ended in the engine"
        assert gate.entered == 0
        await until(lambda: not worker.tier.cache.leased)


async def test_prefetch_reads_without_a_request_and_once():
    async with engine() as ((worker,), _, gate):
        gate.prefetch(adapter(5))
        gate.prefetch(adapter(5))
        gate.prefetch(adapter(9))
        await until(lambda: gate.residency.tiers.get("a5@1") == "host")
        gate.prefetch(adapter(5))
        await until(lambda: not worker.tier.cache.leased)
        assert sorted(worker.reads) == [5, 9]


async def test_reports_follow_what_is_held():
    async with engine() as ((worker,), _, gate):
        assert gate.residency.tiers == {}
        assert gate.residency.scheduler == {"running": 0}
        for number in (1, 2, 3, 4):
            async with gate.lease(adapter(number)):
                pass
        own = {f"a{number}@1": "host" for number in worker.tier.sizes()}
        assert len(own) == 3
        await until(lambda: gate.residency.tiers == own)


async def test_the_scheduler_hears_of_what_is_removed():
    async with engine() as (_, forgotten, gate):

        async def remove(number: int) -> bool:
            return number == 4

        assert await gate.removing(remove)(4)
        assert not await gate.removing(remove)(5)
        await until(lambda: forgotten == [4, 5])


async def test_a_worker_that_is_gone_fails_requests_at_once():
    async with engine() as ((worker,), _, gate):
        worker.open.clear()

        async def request() -> None:
            async with gate.lease(adapter(1)):
                pass

        waiting = asyncio.create_task(request())
        await until(lambda: gate.waiting == 1)
        for connection in tuple(worker.socket._connections):
            connection._peer.shutdown(socket.SHUT_RDWR)
        with pytest.raises(AdapterNotLoaded, match=WORKER_GONE):
            await waiting
        with pytest.raises(AdapterNotLoaded, match=WORKER_GONE):
            await request()


async def test_a_connection_that_ends_gives_its_leases_back():
    async with engine() as ((worker,), _, gate):
        held = gate.lease(adapter(1))
        await held.__aenter__()
        assert worker.tier.cache.leased == {1}
        await gate.close()
        await until(lambda: not worker.tier.cache.leased)


async def test_nobody_listening_is_an_error():
    with pytest.raises(FileNotFoundError):
        await AdapterGate("nobody", 1).connect(paged=False)


def test_a_folder_that_others_can_enter_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = socket_path("one", "0").parent
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o755)
    with pytest.raises(StartupError, match="belongs to this user alone"):
        socket_path("one", "0")


async def test_what_the_engine_gives_out_is_counted_on_the_requests_account():
    """vLLM's `RequestOutputKind` says whether an output holds all tokens so far or the new ones."""

    async def generate(prompt: str, sampling_params: Any, lora_request: Any = None) -> AsyncIterator[Any]:
        for _ in range(3):
            yield SimpleNamespace(prompt_token_ids=[1, 2], outputs=[SimpleNamespace(index=0, token_ids=[3, 4])])

    async with engine() as (_, _, gate):
        entered = gate.around(generate)
        for kind, tokens in ((RequestOutputKind.DELTA, 8), (RequestOutputKind.FINAL_ONLY, 4)):
            opened = Account(lambda _: None)
            before = account.set(opened)
            assert len([output async for output in entered("x", SamplingParams(output_kind=kind))]) == 3
            assert opened.tokens == tokens
            async for _ in entered("x", sampling_params=SamplingParams(output_kind=kind)):
                pass
            assert opened.tokens == 2 * tokens
            account.reset(before)


async def test_what_a_clients_request_took_is_told_once_it_has_ended_and_what_nobody_asked_for_is_not():
    async def generate(prompt: str, sampling_params: Any, lora_request: Any = None) -> AsyncIterator[Any]:
        for _ in range(3):
            await asyncio.sleep(0.01)
            metrics = SimpleNamespace(first_token_latency=0.25)
            outputs = [SimpleNamespace(index=0, token_ids=[3, 4])]
            yield SimpleNamespace(prompt_token_ids=[1, 2, 5], outputs=outputs, metrics=metrics)

    async with engine() as (_, _, gate):
        told: list[Usage] = []
        gate.on_usage = told.append
        entered = gate.around(generate)
        async for _ in entered("x", SamplingParams(output_kind=RequestOutputKind.DELTA)):
            pass
        assert told == []  # no client's: a trial, a measurement
        asking, tenant = exchange.set(Exchange()), caller.set(Tenant("alice"))
        request = LoRARequest("a1@1", 1, "/nowhere")
        async for _ in entered("x", SamplingParams(output_kind=RequestOutputKind.DELTA), lora_request=request):
            assert told == []
        given_up = entered("x", SamplingParams(output_kind=RequestOutputKind.DELTA))
        await anext(given_up)
        await given_up.aclose()
        caller.reset(tenant)
        exchange.reset(asking)
    whole, part = told
    assert (whole.engine_name, whole.tenant, whole.prompt_tokens, whole.generated_tokens) == ("a1@1", "alice", 3, 6)
    assert whole.seconds >= 0.02
    assert whole.first_token_s == 0.25  # vLLM's own, where it says it
    assert (part.engine_name, part.prompt_tokens, part.generated_tokens) == (None, 3, 2)

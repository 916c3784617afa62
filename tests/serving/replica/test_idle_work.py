"""Idle work of a replica: when it begins, and that it is given up as soon as a request wants its place."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

from serving.access.caller import caller
from serving.access.tenant import ANONYMOUS, Tenant
from serving.paging.idle import is_idle_work
from serving.replica import idle_work as module
from serving.replica.idle_work import DONE, DROPPED, FAILED, GIVEN_UP, PUT_BACK, IdleWork, Room

SEATS, SLOTS = 4, 2


class Engine:
    def __init__(self) -> None:
        self.waiting = self.entered = self.idle = 0
        self.adapters: dict[str, int] = {}
        self.residency = SimpleNamespace(slots=SLOTS, scheduler={"waiting": {}})

    def reports(self, **waiting: int) -> None:
        self.residency.scheduler = {"waiting": {"slot": 0, "draining": 0, "seat": 0, "parked": 0, **waiting}}


class Jobs:
    """Jobs that note their tries, and last until they are let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.go = asyncio.Event()
        self.seen: list[Any] = []

    def job(self, name: str) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            self.begun.append(name)
            self.seen.append((is_idle_work(), caller.get(), MARK.get()))
            MARK.set("changed")
            try:
                await self.go.wait()
            finally:
                self.ended.append(name)

        return work


MARK: ContextVar[str] = ContextVar("mark", default="default")


@asynccontextmanager
async def working(engine: Engine, most: int = 8, **options: float) -> AsyncIterator[IdleWork]:
    work = IdleWork(Room(engine, SEATS), most, **options)
    work.start()
    try:
        yield work
    finally:
        await work.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.002)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.001)


async def a_while() -> None:
    await asyncio.sleep(0.02)


async def test_jobs_run_one_after_the_other_in_contexts_of_their_own() -> None:
    jobs, counted = Jobs(), []
    before, mark = caller.set(Tenant("ann")), MARK.set("offered")
    async with working(Engine()) as work:
        for name in ("a", "b"):
            assert work.offer(jobs.job(name), counted.append)
        await until(lambda: jobs.begun == ["a"])
        await a_while()
        assert jobs.begun == ["a"]
        jobs.go.set()
        await until(lambda: counted == [DONE, DONE])
    assert jobs.seen == [(True, ANONYMOUS, "default")] * 2
    assert not is_idle_work()
    caller.reset(before)
    MARK.reset(mark)


def a_request_waits(engine: Engine) -> None:
    engine.waiting = 1


def more_than_half_of_the_seats_are_taken(engine: Engine) -> None:
    engine.entered = SEATS // 2 + 1


def one_request_takes_more_than_half_of_the_seats(engine: Engine) -> None:
    engine.entered, engine.residency.scheduler = 1, {"waiting": {}, "running": SEATS // 2 + 1}


def a_request_waits_for_a_seat(engine: Engine) -> None:
    engine.reports(seat=1)


def a_request_waits_for_a_slot(engine: Engine) -> None:
    engine.reports(slot=1)


def an_adapter_drains_for_a_request(engine: Engine) -> None:
    engine.reports(draining=1)


def all_slots_are_taken(engine: Engine) -> None:
    engine.adapters = {"a@1": 1, "b@1": 1}


@pytest.mark.parametrize(
    "occupy",
    [
        a_request_waits,
        all_slots_are_taken,
        one_request_takes_more_than_half_of_the_seats,
        more_than_half_of_the_seats_are_taken,
        a_request_waits_for_a_seat,
        a_request_waits_for_a_slot,
        an_adapter_drains_for_a_request,
    ],
)
async def test_no_job_begins_while(occupy: Callable[[Engine], None]) -> None:
    engine, jobs = Engine(), Jobs()
    occupy(engine)
    async with working(engine) as work:
        work.offer(jobs.job("a"))
        await a_while()
        assert not jobs.begun
        engine.__init__()  # type: ignore[misc]
        await until(lambda: jobs.begun == ["a"])


def a_seat_may_be_short(engine: Engine) -> None:
    engine.entered = SEATS


def a_slot_may_be_short(engine: Engine) -> None:
    engine.adapters = {"a@1": 1, "b@1": 1, "c@1": 1}


@pytest.mark.parametrize(
    "occupy",
    [
        a_seat_may_be_short,
        a_slot_may_be_short,
        a_request_waits_for_a_seat,
        a_request_waits_for_a_slot,
        an_adapter_drains_for_a_request,
    ],
)
async def test_a_job_is_given_up_when(occupy: Callable[[Engine], None]) -> None:
    engine, jobs, counted = Engine(), Jobs(), []
    async with working(engine) as work:
        work.offer(jobs.job("a"), counted.append)
        work.offer(jobs.job("b"), counted.append)
        await until(lambda: jobs.begun == ["a"])
        engine.idle, engine.entered = 1, SEATS // 2
        engine.reports(parked=3)
        work.look()
        await a_while()
        assert not jobs.ended, "nobody wants its place"
        occupy(engine)
        await until(lambda: counted == [PUT_BACK])
        assert jobs.ended == ["a"]
        await a_while()
        assert jobs.begun == ["a"]
        engine.__init__()  # type: ignore[misc]
        await until(lambda: jobs.begun == ["a", "a"])  # the first to come again, and for the last time
        occupy(engine)
        engine.idle = 1
        await until(lambda: counted == [PUT_BACK, GIVEN_UP])
        engine.__init__()  # type: ignore[misc]
        jobs.go.set()
        await until(lambda: counted == [PUT_BACK, GIVEN_UP, DONE])
        assert jobs.begun == ["a", "a", "b"]


async def test_a_request_that_enters_ends_a_job_in_the_same_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, jobs, counted = Engine(), Jobs(), []
    async with working(engine) as work:
        work.offer(jobs.job("a"), counted.append)
        await until(lambda: jobs.begun == ["a"])
        monkeypatch.setattr(module, "LOOK_S", 60.0)
        await a_while()
        engine.idle, engine.entered = 1, SEATS
        work.look()
        for _ in range(3):
            await asyncio.sleep(0)
        assert jobs.ended == ["a"]


async def test_a_job_gives_way_to_a_request_that_waits_long_for_its_adapter() -> None:
    now, engine = 0.0, Engine()
    room = Room(engine, SEATS, lambda: now)
    for time, waiting, wanted in ((0.0, 1, False), (0.9, 1, False), (0.95, 0, False), (1.5, 1, False), (2.6, 1, True)):
        now, engine.waiting = time, waiting
        assert room.is_wanted() == wanted, time


async def test_too_many_jobs_are_dropped_and_the_newest_first() -> None:
    engine, jobs, counted = Engine(), Jobs(), []
    engine.waiting = 1
    async with working(engine, most=2) as work:
        taken = [work.offer(jobs.job(name), counted.append) for name in "abc"]
        assert (taken, counted, work.waiting) == ([True, True, False], [DROPPED], 2)
        engine.waiting = 0
        jobs.go.set()
        await until(lambda: jobs.ended == ["a", "b"])


async def test_a_job_that_fails_or_takes_too_long_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    jobs, counted = Jobs(), []

    async def broken() -> None:
        raise RuntimeError("no such thing")

    async with working(Engine(), longest_s=0.01) as work:
        work.offer(broken, counted.append)
        work.offer(jobs.job("slow"), counted.append)
        await until(lambda: counted == [FAILED, FAILED])
        assert jobs.ended == ["slow"]
        jobs.go.set()
        work.offer(jobs.job("a"), counted.append)
        await until(lambda: counted == [FAILED, FAILED, DONE])
    assert "no such thing" in caplog.text
    assert "took too long" in caplog.text


async def test_at_its_end_the_running_job_is_ended_and_none_begins() -> None:
    jobs = Jobs()
    async with working(Engine()) as work:
        work.offer(jobs.job("a"))
        work.offer(jobs.job("b"))
        await until(lambda: jobs.begun == ["a"])
    assert (jobs.begun, jobs.ended, work.waiting) == (["a"], ["a"], 0)


async def test_a_job_that_is_withdrawn_makes_room_and_is_never_begun() -> None:
    engine, jobs = Engine(), Jobs()
    engine.waiting = 1
    async with working(engine, most=1) as work:
        first = jobs.job("first")
        assert work.offer(first)
        work.withdraw(first)
        assert work.waiting == 0
        assert work.offer(jobs.job("second"))
        engine.waiting = 0
        await asyncio.sleep(4 * module.LOOK_S)
        assert jobs.begun == ["second"]


async def test_a_job_that_takes_too_long_is_cancelled_once_and_ends_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    ended: list[str] = []
    outcomes: list[str] = []
    counted = asyncio.Event()

    def count(outcome: str) -> None:
        outcomes.append(outcome)
        counted.set()

    async def work_() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)  # some looks long
            ended.append("whole")

    async with working(Engine(), longest_s=0.02) as work:
        work.offer(work_, count)
        await asyncio.wait_for(counted.wait(), 5)
    assert (ended, outcomes) == (["whole"], [FAILED])

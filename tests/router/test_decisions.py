"""The line before the router's decisions, under a simulated clock; what runs in threads there are coroutines here."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from router.decisions import LONGEST_RETRY_S, Abandoned, Check, DeadlinePassed, DecisionQueue
from specs.errors import Overloaded
from tests.router.simulated_loop import simulate


class Threads:
    """Plays the threads: how many work at once, and which work has begun, in order."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.begun: list[Any] = []
        self.stopped: list[tuple[Any, float]] = []

    def submit(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        return asyncio.ensure_future(work())

    def work(self, name: Any, seconds: float, steps: int = 1) -> Callable[[Check], Awaitable[Any]]:
        """Work of so many equal steps, which looks before each whether it is still wanted."""

        async def run(check: Check) -> Any:
            self.running += 1
            self.most = max(self.most, self.running)
            self.begun.append(name)
            try:
                for _ in range(steps):
                    check()
                    await asyncio.sleep(seconds / steps)
                return name
            finally:
                self.running -= 1
                self.stopped.append((name, now()))

        return run


def now() -> float:
    return asyncio.get_running_loop().time()


def queue_of(threads: Threads, count: int = 2, max_wait_s: float = 1.0, deadline_s: float = 0.05) -> DecisionQueue:
    return DecisionQueue(count, max_wait_s, deadline_s, threads.submit)


async def outcomes(queue: DecisionQueue, works: list[Callable[[Check], Any]]) -> list[Any]:
    return await asyncio.gather(*(queue.decide(work) for work in works), return_exceptions=True)


def test_the_deadline_counts_from_the_start_of_a_decision_and_not_from_the_wait() -> None:
    async def run() -> None:
        threads = Threads()
        queue = queue_of(threads)
        decided = await outcomes(queue, [threads.work(number, 0.04) for number in range(20)])
        assert [each.result for each in decided] == list(range(20))
        assert [each.waited_s for each in decided] == pytest.approx([number // 2 * 0.04 for number in range(20)])
        assert decided[-1].waited_s > 0.05

    simulate(run())


def test_first_come_first_served_and_never_more_at_once_than_there_are_threads() -> None:
    async def run() -> None:
        threads = Threads()
        await outcomes(queue_of(threads), [threads.work(number, 0.01) for number in range(30)])
        assert threads.begun == list(range(30))
        assert threads.most == 2

    simulate(run())


def test_who_would_wait_too_long_is_refused_at_once_and_who_is_not_is_served_in_time() -> None:
    async def run() -> None:
        threads = Threads()
        queue = queue_of(threads, max_wait_s=1.0)
        await outcomes(queue, [threads.work("warm", 0.01) for _ in range(200)])
        began = now()
        refused_at: list[float] = []

        async def ask(number: int) -> Any:
            try:
                return await queue.decide(threads.work(number, 0.01))
            except Overloaded as refusal:
                refused_at.append(now())
                return refusal

        # two threads, 10 ms each: 200 a second
        answers = await asyncio.gather(*(ask(number) for number in range(500)))
        served = [answer for answer in answers if not isinstance(answer, Overloaded)]
        assert 190 <= len(served) <= 210
        assert max(answer.waited_s for answer in served) <= 1.0
        # but for those at the very end of the line, whose estimate is as long as the bound
        assert sum(moment != began for moment in refused_at) <= 5
        # told to come back when there is time for them: the pace again, after those who are in the line
        told = [answer.retry_after_s for answer in answers if isinstance(answer, Overloaded)]
        assert (min(told), max(told)) == (2, 3)
        # by then all is done, and the next is served at once
        await asyncio.sleep(3)
        assert queue.waiting == 0
        assert (await queue.decide(threads.work("later", 0.01))).waited_s == 0

    simulate(run())


def test_a_refused_client_is_never_told_to_wait_for_long() -> None:
    async def run() -> None:
        threads = Threads()
        queue = queue_of(threads, max_wait_s=0.2)
        for _ in range(100):
            await outcomes(queue, [threads.work("warm", 0.04)])
        answers = await outcomes(queue, [threads.work(number, 0.04) for number in range(5_000)])
        told = [answer.retry_after_s for answer in answers if isinstance(answer, Overloaded)]
        assert min(told) >= 1
        assert max(told) == LONGEST_RETRY_S

    simulate(run())


def test_the_wait_ends_at_its_bound_when_nothing_moves() -> None:
    """The estimate knows nothing of work that hangs."""

    async def run() -> None:
        threads = Threads()
        queue = queue_of(threads, max_wait_s=1.0)
        stuck = [asyncio.ensure_future(queue.decide(threads.work("stuck", 60))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refusal:
            await queue.decide(threads.work("waits", 0.001))
        assert now() == pytest.approx(1.0)
        assert refusal.value.retry_after_s == 1
        assert queue.waiting == 0
        assert "waits" not in threads.begun
        assert [type(error) for error in await asyncio.gather(*stuck, return_exceptions=True)] == [DeadlinePassed] * 2

    simulate(run())


def test_past_its_deadline_a_decision_is_given_up_and_stops_at_its_next_look() -> None:
    async def run() -> None:
        threads = Threads()
        queue = queue_of(threads, count=1)
        slow = asyncio.ensure_future(queue.decide(threads.work("slow", 1.0, steps=10)))
        following = asyncio.ensure_future(queue.decide(threads.work("next", 0.01)))
        with pytest.raises(DeadlinePassed):
            await slow
        assert now() == pytest.approx(0.05)
        # its thread is busy until the look at 0.1 s, and not for the whole second
        assert (await following).waited_s == pytest.approx(0.1)
        assert threads.most == 1

    simulate(run())


def test_a_client_that_hangs_up_costs_no_decision_and_a_running_one_stops() -> None:
    async def run() -> None:
        threads = Threads()
        queue = queue_of(threads, count=1, deadline_s=1.0)
        running = asyncio.ensure_future(queue.decide(threads.work("running", 1.0, steps=10)))
        waiting = asyncio.ensure_future(queue.decide(threads.work("waiting", 0.01)))
        last = asyncio.ensure_future(queue.decide(threads.work("last", 0.01)))
        await asyncio.sleep(0.01)
        assert queue.waiting == 2
        running.cancel()
        waiting.cancel()
        assert (await last).waited_s == pytest.approx(0.1)
        assert threads.begun == ["running", "last"]
        assert queue.waiting == 0

    simulate(run())


def test_an_error_reaches_its_caller_and_the_thread_goes_on() -> None:
    async def run() -> None:
        threads = Threads()
        queue = queue_of(threads, count=1)

        async def fail(_: Check) -> None:
            raise ValueError("no")

        error, good = await outcomes(queue, [fail, threads.work("good", 0.01)])
        assert isinstance(error, ValueError)
        assert good.result == "good"

    simulate(run())


def test_one_slow_decision_does_not_close_the_line() -> None:
    async def run() -> None:
        threads = Threads()
        queue = queue_of(threads, max_wait_s=1.0)
        for _ in range(3):
            await outcomes(queue, [threads.work("hangs", 5.0)])
            await asyncio.sleep(5)
        answers = await outcomes(queue, [threads.work(number, 0.004) for number in range(128)])
        assert not [answer for answer in answers if isinstance(answer, Exception)]

    simulate(run())


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_every_request_has_one_outcome_in_time(seed: int) -> None:
    """Arrivals, durations, and hang-ups at random, at one to three times what two threads can do."""

    async def run() -> None:
        draw = random.Random(seed)
        threads = Threads()
        max_wait_s, deadline_s = 0.3, 0.05
        queue = queue_of(threads, max_wait_s=max_wait_s, deadline_s=deadline_s)
        ended: dict[int, str] = {}

        async def ask(number: int) -> None:
            arrived, seconds = now(), draw.choice([0.001, 0.004, 0.01, 0.2])
            task = asyncio.ensure_future(queue.decide(threads.work(number, seconds, steps=20)))
            patience = draw.choice([0.02, 10, 10, 10])
            done, _ = await asyncio.wait({task}, timeout=patience)
            if not done:
                task.cancel()
                await asyncio.wait({task})
            if task.cancelled():
                ended[number] = "gone"
                return
            error = task.exception()
            ended[number] = type(error).__name__ if error else "decided"
            assert not isinstance(error, Abandoned)
            if error is None:
                assert task.result().result == number
                assert task.result().waited_s <= max_wait_s + 1e-9
            assert now() - arrived <= max_wait_s + deadline_s + 1e-9

        async def arrive() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(600):
                    group.create_task(ask(number))
                    await asyncio.sleep(draw.expovariate(1 / draw.choice([0.001, 0.01])))

        await arrive()
        assert sorted(ended) == list(range(600))
        assert {"decided", "Overloaded", "DeadlinePassed", "gone"} >= set(ended.values())
        assert list(ended.values()).count("decided") > 200
        assert threads.most == 2
        await asyncio.sleep(1)
        assert (queue.waiting, threads.running) == (0, 0)
        assert (await queue.decide(threads.work("after", 0.001))).waited_s == 0

    simulate(run())


async def test_in_real_threads_the_work_runs_beside_the_loop_and_stops_when_it_is_given_up() -> None:
    queue = DecisionQueue(2, max_wait_s=5.0, deadline_s=0.2)
    stopped = threading.Event()

    def forever(check: Check) -> None:
        try:
            while True:
                check()
        finally:
            stopped.set()

    with pytest.raises(DeadlinePassed):
        await queue.decide(forever)
    assert await asyncio.to_thread(stopped.wait, 5)
    name = await queue.decide(lambda _: threading.current_thread().name)
    assert name.result.startswith("decide")

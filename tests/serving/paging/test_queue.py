"""The waiting queue: order, the limit of S adapters, aborts and priorities, and the bound on every wait, in a model of
an engine and beside a queue that starves."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from serving.paging.lanes import Entry, Line
from serving.paging.queue import AGE_FACTOR, AdapterQueue, Running
from tests.serving.paging.engine_model import Engine, Job, OurQueue, StockQueue

SLOTS, SEATS, LONGEST = 3, 5, 6


def drained(queue: AdapterQueue, now: float = 0.0, running=(), residents=()) -> list:
    queue.begin_step(now, running, residents)
    taken = []
    while queue.peek() is not None:
        first = queue.peek()
        assert queue.pop() is first
        taken.append(first)
        queue.check_integrity()
    return taken


def queue_of(*items: tuple[str, int | None], slots: int = 2, patience: float = 10.0) -> AdapterQueue[str]:
    queue: AdapterQueue[str] = AdapterQueue(slots, patience)
    for item, adapter in items:
        queue.add(item, adapter, now=0.0)
    return queue


def test_without_adapters_it_is_first_come_first_served():
    queue = queue_of(("a", None), ("b", None), ("c", None))
    assert drained(queue) == ["a", "b", "c"]


def test_active_and_resident_adapters_go_before_those_that_must_be_loaded():
    queue = queue_of(("cold", 1), ("resident", 2), ("active", 3), slots=3)
    assert drained(queue, running=[Running(3, 5)], residents=[2, 3]) == ["resident", "active", "cold"]


def test_an_adapter_that_is_opened_serves_all_that_waits_for_it():
    queue = queue_of(("a1", 1), ("b1", 2), ("a2", 1), ("b2", 2), ("a3", 1))
    assert drained(queue) == ["a1", "a2", "a3", "b1", "b2"]


def test_at_most_as_many_adapters_as_slots_counting_those_that_run():
    queue = queue_of(("a", 1), ("b", 2), ("c", 3), ("base", None))
    assert drained(queue, running=[Running(7, 5)]) == ["base", "a"]
    assert len(queue) == 2
    with pytest.raises(IndexError, match="no waiting request may run now"):
        queue.pop()


def test_upcoming_are_the_adapters_that_must_be_loaded_oldest_first_and_nothing_moves():
    queue = queue_of(("a", 1), ("resident", 2), ("b", 3), ("c", 4), ("active", 5), ("base", None), slots=3)
    queue.begin_step(0.0, [Running(5, 5)], residents=[2, 5])
    assert queue.upcoming(2) == (1, 3)
    assert queue.upcoming(9) == (1, 3, 4)
    queue.check_integrity()
    assert queue.peek() == "resident"


def test_within_a_tenant_a_head_start_goes_before_residency_and_age():
    queue: AdapterQueue[str] = AdapterQueue(2, patience=1.0)
    queue.add("old", 1, now=0.0)
    queue.add("resident", 2, now=50.0)
    queue.add("urgent", 3, now=50.0, head_start=0.5)
    assert drained(queue, now=50.0, residents=[2]) == ["urgent", "old"]


def test_a_request_that_the_engine_takes_back_is_first():
    queue = queue_of(("a", 1), ("b", 1))
    queue.add_front("preempted", 1, now=1.0)
    assert drained(queue, now=1.0) == ["preempted", "a", "b"]


def test_removed_requests_do_not_run_and_strangers_are_ignored():
    queue = queue_of(("a", 1), ("b", 1), ("c", 2))
    queue.begin_step(0.0, [])
    assert queue.peek() == "a"
    assert queue.remove("a")
    assert not queue.remove("a")
    assert not queue.remove("stranger")
    assert queue.peek() == "b"
    assert drained(queue) == ["b", "c"]
    assert len(queue) == 0


def test_the_same_request_cannot_wait_twice():
    queue = queue_of(("a", 1))
    with pytest.raises(ValueError, match="'a' waits already"):
        queue.add("a", 1, now=0.0)


def test_an_adapter_that_drains_admits_what_came_before_the_aged_request_and_nothing_later():
    queue: AdapterQueue[str] = AdapterQueue(1, patience=1.0)
    queue.add("before", 1, now=0.0)
    queue.add("cold", 2, now=0.1)
    queue.add("after", 1, now=0.2)
    assert drained(queue, now=5.0, running=[Running(1, 9)]) == ["before"]
    assert set(queue.draining) == {1}
    assert drained(queue, now=6.0, running=[]) == ["cold"]


def test_no_adapter_drains_while_slots_become_free_by_themselves():
    queue: AdapterQueue[str] = AdapterQueue(2, patience=1.0)
    queue.add("first", 1, now=0.0)
    queue.add("second", 2, now=0.0)
    assert drained(queue) == ["first", "second"]
    queue.add("aged", 3, now=0.0)
    queue.add("more", 1, now=0.1)
    queue.begin_step(8.0, [Running(1, 9)])  # one ended, 8 s after its last request came in: so long is usual
    assert queue.usual_run == 8.0
    assert queue.pop() == "aged"
    queue.add("next", 4, now=0.2)
    queue.begin_step(15.9, [Running(1, 9), Running(3, 1)])
    assert not queue.draining
    queue.begin_step(16.0, [Running(1, 9), Running(3, 1)])
    assert set(queue.draining) == {3}


def test_the_adapter_that_can_end_soonest_drains():
    queue: AdapterQueue[str] = AdapterQueue(3, patience=1.0)
    queue.add("cold", 9, now=0.0)
    queue.begin_step(5.0, [Running(1, 50), Running(2, 7), Running(3, 8), Running(2, 3)])
    assert set(queue.draining) == {2}


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 6), st.integers(0, 1)),
        st.tuples(st.just("front"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("step"), st.integers(0, 5), st.just(0)),
    ),
    max_size=60,
)


@given(operations, st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_whatever_happens_the_order_the_limit_and_the_tables_hold(steps, slots):
    queue: AdapterQueue[int] = AdapterQueue(slots, patience=3.0)
    adapters: dict[int, int | None] = {}
    expected: dict[tuple[int | None, int], list[int]] = {}
    running: list[tuple[int, Running]] = []
    now = 0.0
    for number, (what, value, priority) in enumerate(steps):
        now += 1.0
        if what in ("add", "front"):
            adapters[number] = value or None
            line = expected.setdefault((adapters[number], priority), [])
            if what == "add":
                queue.add(number, adapters[number], now, head_start=-priority)
                line.append(number)
            else:
                queue.add_front(number, adapters[number], now)
                line.insert(0, number)
        elif what == "remove":
            present = any(value in line for line in expected.values())
            assert queue.remove(value) is present
            for line in expected.values():
                if value in line:
                    line.remove(value)
        else:
            running = running[value:]
            queue.begin_step(now, [one for _, one in running], [])
            for _ in range(value):
                if queue.peek() is None:
                    break
                taken = queue.pop()
                adapter = adapters[taken]
                lines = [expected[key] for key in sorted(expected, key=str) if key[0] == adapter and expected[key]]
                assert taken == lines[0][0]  # priority 0 before 1, each in its order
                lines[0].pop(0)
                running.append((taken, Running(adapter, 3)))
                assert len({one.adapter for _, one in running if one.adapter is not None}) <= slots
        queue.check_integrity()
        assert len(queue) == sum(map(len, expected.values()))
        assert sorted(queue) == sorted(number for line in expected.values() for number in line)


jobs = st.lists(
    st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(1, 8)), st.integers(1, LONGEST)),
    min_size=1,
    max_size=120,
)


@given(jobs, st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_no_request_waits_longer_than_the_bound(arrivals, patience):
    """Once aged out with b older ones still waiting, a request is admitted within (b + 1) · 2R, here in steps."""
    ours = OurQueue(SLOTS, patience)
    engine = Engine(ours, SLOTS, SEATS)
    pending, at = [], 0
    for number, (gap, adapter, length) in enumerate(arrivals):
        at += gap
        pending.append(Job(number, adapter, at, length))
    waiting: list[Job] = []
    deadline: dict[int, int] = {}
    while pending or waiting or engine.running:
        arriving = [job for job in pending if job.arrival == engine.now]
        pending = pending[len(arriving) :]
        waiting += arriving
        patient = max(patience, AGE_FACTOR * ours.queue.mean_wait)
        for older, job in enumerate(waiting):
            if job.number not in deadline and engine.now - job.arrival > patient:
                deadline[job.number] = engine.now + (older + 1) * 2 * LONGEST
        now = engine.now
        for job in engine.step(arriving):
            assert now <= deadline.get(job.number, now)
            waiting.remove(job)
        for job in waiting:
            assert now < deadline.get(job.number, now + 1)
        assert not (waiting and not engine.running and not pending and engine.now > 10_000)


def busy_with_cold(queue, steps: int = 3000, slots: int = 4, clients: int = 5) -> tuple[list[int], list[int], Engine]:
    """S adapters that always have `clients` requests, running or waiting, and every 40 steps one request to another.

    Returns the waits of the cold requests and of the busy ones.
    """
    engine = Engine(queue, slots, seats=slots * clients)
    choose = random.Random(1)
    live: list[Job] = []
    cold: list[Job] = []
    done: list[Job] = []
    number = 0
    for now in range(steps):
        arriving = []
        live = [job for job in live if job.admitted is None or job.left]
        for adapter in range(1, slots + 1):
            for _ in range(clients - sum(job.adapter == adapter for job in live)):
                number += 1
                arriving.append(Job(number, adapter, now, choose.randint(5, 20)))
        live += arriving
        done += arriving
        if now % 40 == 0:
            number += 1
            cold.append(Job(number, 100 + len(cold) % 30, now, 4))
            arriving.append(cold[-1])
        engine.step(arriving)
    return [job.wait(steps) for job in cold], [job.wait(steps) for job in done], engine


def test_cold_requests_beside_adapters_that_are_always_busy_are_served_within_the_bound():
    patience, longest = 10, 20
    cold, busy, _ = busy_with_cold(OurQueue(4, patience))
    mean = sum(busy) / len(busy)
    assert max(cold[:-1]) <= max(patience, 3 * AGE_FACTOR * mean) + 2 * longest + 1
    assert max(busy) <= max(patience, 3 * AGE_FACTOR * mean) + 3 * longest


def test_stock_order_starves_them():
    cold, _, _ = busy_with_cold(StockQueue(4))
    served = sum(wait < 200 for wait in cold)
    assert served < len(cold) / 2
    assert max(cold) > 1000


def test_preferring_residents_saves_loads_when_more_comes_than_can_be_served():
    def loads(queue) -> int:
        engine = Engine(queue, slots=4, seats=8)
        choose = random.Random(2)
        shares = [1 / adapter for adapter in range(1, 41)]
        for now in range(1000):
            adapters = choose.choices(range(1, 41), shares, k=2)
            engine.step(Job(2 * now + i, adapter, now, choose.randint(3, 12)) for i, adapter in enumerate(adapters))
        return engine.table.loads

    assert loads(OurQueue(4, 10)) < 0.4 * loads(StockQueue(4))


@pytest.mark.slow
@pytest.mark.parametrize("tenants", [1, 50])
def test_a_pop_costs_the_same_beside_a_hundred_and_a_hundred_thousand_waiting_requests(tenants, monkeypatch):
    """Counted in looks at a line's head and in comparisons of requests, not in time."""
    counted = 0
    for name in ("head", "value"):
        plain = Line.head if name == "head" else Line.value.fget

        def counting(line: Line, plain=plain):
            nonlocal counted
            counted += 1
            return plain(line)

        monkeypatch.setattr(Line, name, counting if name == "head" else property(counting))
    plain_less = Entry.__lt__

    def less(one: Entry, other: Entry) -> bool:
        nonlocal counted
        counted += 1
        return plain_less(one, other)

    monkeypatch.setattr(Entry, "__lt__", less)
    counts = {}
    for size in (100, 100_000):
        queue: AdapterQueue[int] = AdapterQueue(8, patience=1.0)
        for number in range(size):
            queue.add(number, number % (size // 10) + 1, now=float(number), tenant=number % tenants)
        before = counted
        for step in range(20):
            queue.begin_step(2.0 * size, [Running(adapter, 5) for adapter in range(1, 9)])
            queue.begin_step(2.0 * size + step, [])
            queue.pop()
        counts[size] = counted - before
    assert counts[100_000] < 4 * counts[100] + 400

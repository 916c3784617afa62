"""Seats that are kept for tenants below their share: one that floods leaves them alone, what is held back still comes
next, nobody starves, and a tenant alone is never held back."""

import math
import random
from collections import Counter, deque
from itertools import count

import pytest
from hypothesis import given, settings, strategies as st

from serving.paging.fair_share import HALF_LIFE_S
from serving.paging.kept_seats import KEPT_PART, STEP_PART
from serving.paging.queue import AdapterQueue, Running
from tests.serving.paging.engine_model import Engine, Job, OurQueue

SEATS = 8
COST = 10.0
"""Tokens of a request of the tenant that floods; those of the others take one."""


def full_of(tenant: str, *, seats: int = SEATS, waiting: int = 100, slots: int = 4) -> AdapterQueue[object]:
    """Returns a queue whose engine runs as many requests of a tenant as it lets begin, with many more that wait."""
    queue: AdapterQueue[object] = AdapterQueue(slots, 1.0, seats)
    for number in range(seats + waiting):
        queue.add(number, None, 0.0, tenant=tenant, cost=COST)
    begin(queue, 0.0, seats)
    return queue


def begin(queue: AdapterQueue[object], now: float, seats: int = SEATS) -> list[object]:
    """Lets requests begin while there are seats, as an engine's step does."""
    queue.begin_step(now, [])
    begun = []
    while queue.shares.charged < seats and queue.peek() is not None:
        begun.append(queue.pop())
    return begun


def test_a_tenant_that_was_here_lately_finds_a_seat_beside_one_that_floods():
    queue = full_of("a")
    queue.add("b1", None, 1.0, tenant="b")
    queue.finished(0)
    assert begin(queue, 1.0) == ["b1"]
    queue.finished("b1")
    assert begin(queue, 2.0) == []  # the seat is kept
    queue.add("b2", None, 3.0, tenant="b")
    assert begin(queue, 3.0) == ["b2"]


def test_no_seat_is_kept_for_one_that_stays_away():
    queue = full_of("a")
    queue.add("b", None, 1.0, tenant="b")
    queue.finished(0)
    begin(queue, 1.0)
    queue.begin_step(2.0, [])
    queue.finished("b")
    assert begin(queue, 2.0 + 0.9 * HALF_LIFE_S) == []
    assert begin(queue, 2.0 + 1.1 * HALF_LIFE_S) == [SEATS]


def test_one_that_sent_many_at_once_is_remembered_longer_and_gets_a_small_part_at_most():
    seats = 4 * KEPT_PART
    queue = full_of("a", seats=seats)
    for number in range(10):
        queue.add(("b", number), None, 1.0, tenant="b")
        queue.finished(number)
    assert begin(queue, 1.0, seats) == [("b", number) for number in range(10)]
    for number in range(10):
        queue.finished(("b", number))
    for now, kept in ((1.0, 4), (1.0 + 2 * HALF_LIFE_S, 2), (1.0 + 3 * HALF_LIFE_S, 1), (1.0 + 5 * HALF_LIFE_S, 0)):
        while begin(queue, now, seats):
            pass
        assert queue.shares.charged == seats - kept


def test_tenants_that_hold_their_shares_leave_no_seat_free():
    queue: AdapterQueue[object] = AdapterQueue(4, 1.0, SEATS)
    for number in range(100):
        queue.add(("a", number), None, 0.0, tenant="a")
        queue.add(("b", number), None, 0.0, tenant="b")
    begun = begin(queue, 0.0)
    assert Counter(tenant for tenant, _ in begun) == {"a": 4, "b": 4}


def test_a_tenant_of_more_weight_holds_more_before_it_is_held_back():
    queue: AdapterQueue[object] = AdapterQueue(4, 1.0, SEATS)
    queue.add("b", None, 0.0, tenant="b")
    assert begin(queue, 0.0) == ["b"]
    queue.finished("b")
    for number in range(100):
        queue.add(number, None, 0.0, tenant="a", weight=15.0)
    assert len(begin(queue, 0.0)) == 7  # its share of eight seats is seven and a half
    queue.finished(0)
    assert len(begin(queue, 0.0)) == 1


def test_of_a_step_few_requests_begin_while_another_tenant_is_here():
    queue = full_of("a")
    queue.add("b", None, 1.0, tenant="b")
    for number in range(3):
        queue.finished(number)
    assert begin(queue, 1.0) == ["b"]
    assert begin(queue, 1.1) == [SEATS]
    assert begin(queue, 1.2) == [SEATS + 1]


def test_where_many_requests_begin_in_every_step_they_still_do_beside_another_tenant():
    """Requests that run for two steps keep all seats full but the one that is kept."""
    ours = OurQueue(4, 10, SEATS)
    engine = Engine(ours, 4, SEATS)
    numbers = count()
    full = []
    for now in range(300):
        arriving = [Job(next(numbers), None, now, 2, "a", cost=COST) for _ in range(20 - in_engine(ours, "a"))]
        if now % 20 == 10:
            arriving.append(Job(next(numbers), None, now, 2, "b"))
        admitted = len(engine.step(arriving))
        full.append(admitted)
    assert sum(full[100:]) / 200 >= 0.85 * (SEATS - 1) / 2


def test_no_seat_is_kept_for_one_that_has_received_more():
    queue: AdapterQueue[object] = AdapterQueue(4, 1.0, SEATS)
    queue.add("b", None, 0.0, tenant="b", cost=1e6)
    begin(queue, 0.0)
    for number in range(100):
        queue.add(number, None, 0.0, tenant="a")
    for _ in range(SEATS):
        begin(queue, 0.0)
    queue.finished("b")
    assert begin(queue, 0.0)
    assert queue.shares.charged == SEATS


@pytest.mark.parametrize("seats", [1, STEP_PART - 1, None])
def test_a_small_batch_keeps_nothing(seats):
    queue: AdapterQueue[object] = AdapterQueue(4, 1.0, seats)
    queue.add("b", None, 0.0, tenant="b")
    begin(queue, 0.0, 1)
    queue.finished("b")
    for number in range(100):
        queue.add(number, None, 0.0, tenant="a")
    assert len(begin(queue, 0.0, seats or SEATS)) == (seats or SEATS)


def test_a_request_that_was_taken_back_is_not_held_back():
    queue = full_of("a")
    queue.add("b", None, 1.0, tenant="b")
    queue.finished(0)
    begin(queue, 1.0)
    queue.finished("b")
    queue.add_front(1, None, 1.0, tenant="a")
    queue.begin_step(1.0, [])
    assert queue.peek() == 1


arrivals_drawn = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(st.none(), st.integers(1, 6)),
        st.integers(1, 8),
        st.sampled_from("aaaabc"),
        st.sampled_from([1.0, 1.0, 3.0]),
    ),
    min_size=1,
    max_size=150,
)


def held_back(queue: AdapterQueue[Job]) -> Job | None:
    """Returns the request that would run now if no seat was kept and any number began in a step."""
    most, queue._kept.most, queue._choice = queue._kept.most, 0, None
    found = queue.peek()
    queue._kept.most, queue._choice = most, None
    return found


@given(arrivals_drawn, st.sampled_from([8, 17, 64]))
@settings(max_examples=60, deadline=None)
def test_every_request_ends_and_what_is_kept_stays_within_its_bounds(arrivals, seats):
    """A request is held back only of a tenant that holds its share, for another one, after many have begun in the step
    or from the last seats, and for no longer than any request runs."""
    ours = OurQueue(4, 5.0, seats)
    queue = ours.queue
    engine = Engine(ours, 4, seats)
    pending, at = deque(), 0
    for number, (gap, adapter, length, tenant, weight) in enumerate(arrivals):
        at += gap
        pending.append(Job(number, adapter, at, length, tenant, weight, cost=length))
    take, begun, idle = ours.take, 0, 0

    def checking() -> Job | None:
        nonlocal begun
        taken = take()
        begun += taken is not None
        held = held_back(queue) if taken is None else None
        if held is not None:
            accounts = queue.shares.accounts
            account = accounts[held.tenant]
            assert len(accounts) > 1
            assert account.running >= max(1, int(seats * account.weight / sum(one.weight for one in accounts.values())))
            assert begun >= seats // STEP_PART or seats - queue.shares.charged <= max(1, seats // KEPT_PART)
        return taken

    ours.take = checking  # type: ignore[method-assign]
    while pending or len(queue) or engine.running:
        arriving = []
        while pending and pending[0].arrival <= engine.now:
            arriving.append(pending.popleft())
        begun = 0
        engine.step(arriving)
        queue.check_integrity()
        idle = 0 if begun or not len(queue) else idle + 1
        assert idle <= 2 * 8 + 5 + 8  # it ages out, an adapter drains, and the longest request ends
        assert engine.now < 10_000


@given(arrivals_drawn)
@settings(max_examples=60, deadline=None)
def test_one_tenant_alone_runs_as_without_kept_seats(arrivals):
    orders = []
    for kept in (None, SEATS):
        ours = OurQueue(4, 5.0, kept)
        engine = Engine(ours, 4, SEATS)
        pending, at = deque(), 0
        for number, (gap, adapter, length, _, _) in enumerate(arrivals):
            at += gap
            pending.append(Job(number, adapter, at, length, "a", cost=length))
        orders.append([])
        while pending or len(ours.queue) or engine.running:
            arriving = []
            while pending and pending[0].arrival <= engine.now:
                arriving.append(pending.popleft())
            orders[-1].append([job.number for job in engine.step(arriving)])
    assert orders[0] == orders[1]


@given(
    st.tuples(st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 9)),
    st.tuples(st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 9)),
    st.integers(0, 30),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_tokens_of_two_tenants_that_wait_differ_as_little_as_without_kept_seats(f, g, alone, chance):
    """Holding back passes nobody, so the bound of the fair order stays: a charge of each."""
    queue: AdapterQueue[tuple[str, int]] = AdapterQueue(2, 2.0, SEATS)
    numbers = count()
    tenants, costs = {"f": f, "g": g}, {}
    running: deque[tuple[str, int]] = deque()
    served, waiting = {"f": 0.0, "g": 0.0}, {"f": 0, "g": 0}
    differences = [0.0]
    for now in range(60):
        for name, (weight, most) in tenants.items():
            if name == "g" and now < alone:
                continue
            while waiting[name] <= SEATS:
                item = (name, next(numbers))
                costs[item] = chance.uniform(0.1, 1.0) * most
                waiting[name] += 1
                queue.add(item, None, now, tenant=name, weight=weight, cost=costs[item])
        for _ in range(chance.randint(0, 3)):
            if running:
                queue.finished(running.popleft())
        queue.begin_step(now, [Running(None, 3) for _ in running])
        while len(running) < SEATS and queue.peek() is not None:
            taken = queue.pop()
            running.append(taken)
            waiting[taken[0]] -= 1
            if now >= alone:
                served[taken[0]] += costs[taken] / tenants[taken[0]][0]
                differences.append(served["f"] - served["g"])
    assert max(differences) - min(differences) <= f[1] / f[0] + g[1] / g[0] + 1e-9


def in_engine(ours: OurQueue, tenant: str) -> int:
    account = ours.queue.shares.accounts.get(tenant)
    return account.waiting + account.running if account is not None else 0


def waits_beside_a_flood(seats: int | None, tenant: str | None, steps: int = 3000) -> tuple[list[int], int]:
    """A tenant that sends the next request three steps after each answer, beside another one that always has 40 in the
    engine. Returns its waits in steps, and how many steps of requests the engine ran in all."""
    ours = OurQueue(4, 10, seats)
    engine = Engine(ours, 4, SEATS)
    chance, numbers = random.Random(5), count()
    watched, done = [], 0
    last, next_at = None, 20
    for now in range(steps):
        arriving = [
            Job(next(numbers), chance.randint(1, 4), now, chance.randint(16, 48), "a", cost=32.0)
            for _ in range(40 - in_engine(ours, "a"))
        ]
        if last is not None and last.admitted is not None and last.left == 0:
            last, next_at = None, now + 3
        if last is None and now >= next_at:
            last = Job(next(numbers), chance.randint(1, 4), now, chance.randint(8, 24), tenant, cost=16.0)
            watched.append(last)
            arriving.append(last)
        engine.step(arriving)
        done += len(engine.running)
    return sorted(job.wait(steps) for job in watched if job.arrival > 50), done


def test_beside_a_flood_a_tenant_that_keeps_to_its_share_does_not_wait_and_little_is_lost():
    def quantile(waits: list[int]) -> int:
        return waits[math.ceil(0.99 * len(waits)) - 1]

    before, all_seats = waits_beside_a_flood(None, "b")
    after, kept = waits_beside_a_flood(SEATS, "b")
    assert quantile(before) > 8
    assert quantile(after) <= 1
    assert kept >= 0.95 * all_seats

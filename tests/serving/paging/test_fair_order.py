"""The waiting queue among tenants: one alone gets the order that there was without tenants, several get their shares,
and nobody's head start, age, idleness or wrong estimate goes beyond its bound."""

import math
import random
from collections import Counter, deque
from itertools import count

import pytest
from hypothesis import given, settings, strategies as st

from serving.paging.fair_share import KEPT
from serving.paging.queue import AGE_FACTOR, AdapterQueue, Running
from tests.serving.paging.engine_model import Engine, Job, OurQueue
from tests.serving.paging.former_order import FormerOrder

SLOTS, SEATS, LONGEST = 3, 5, 6

# -- one tenant

operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 7), st.integers(0, 9)),
        st.tuples(st.just("add"), st.integers(0, 7), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("step"), st.integers(0, 5), st.integers(0, 3)),
    ),
    max_size=80,
)


@pytest.mark.slow
@given(operations, st.integers(1, 4), st.sampled_from([0.0, 1.0, 5.0]), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_one_tenant_alone_gets_the_order_that_there_was_without_tenants(steps, slots, patience, chance):
    ours: AdapterQueue[int] = AdapterQueue(slots, patience, seats=8)
    former = FormerOrder(slots, patience)
    running: list[tuple[int, Running]] = []
    adapters: dict[int, int | None] = {}
    now = 0.0
    for number, (what, value, more) in enumerate(steps):
        now += chance.choice([0.0, 0.5, 2.0])
        if what == "add":
            adapters[number] = value or None
            former.add(number, adapters[number], now)
            ours.add(number, adapters[number], now, tenant="a", weight=1.0 + more, cost=float(more))
        elif what == "remove":
            assert ours.remove(value) is former.remove(value)
        else:
            for item, _ in running[:more]:
                ours.finished(item, chance.uniform(0, 20))
            running = running[more:]
            own = [one for _, one in running]
            residents = [*{one.adapter for one in own if one.adapter}, *chance.sample(range(1, 8), 2)][:slots]
            ours.begin_step(now, own, residents)
            former.begin_step(now, own, residents)
            assert set(ours.draining) == set(former.draining)
            for _ in range(value):
                assert ours.peek() == former.peek()
                if former.peek() is None:
                    break
                taken = former.pop()
                assert ours.pop() == taken
                running.append((taken, Running(adapters[taken], chance.randint(1, 4))))
            assert (ours.mean_wait, ours.aged_out, ours.usual_run) == (
                former.mean_wait,
                former.aged_out,
                former.usual_run,
            )
        ours.check_integrity()


# -- shares


def admitted(queue: AdapterQueue, how_many: int) -> list:
    queue.begin_step(0.0, [])
    return [queue.pop() for _ in range(how_many)]


tenant_drawn = st.tuples(
    st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 9), st.lists(st.sampled_from([None, 1, 2, 3]), min_size=1)
)


@given(tenant_drawn, tenant_drawn, st.integers(0, 30), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_tokens_of_two_tenants_that_wait_differ_by_at_most_a_charge_of_each(f, g, alone, slots, chance):
    """Over every interval, whatever their adapters, as long as each has one request that needs no slot."""
    queue: AdapterQueue[tuple[str, int]] = AdapterQueue(slots, patience=2.0)
    numbers = count()
    costs: dict[tuple[str, int], float] = {}
    running: deque[tuple[tuple[str, int], Running]] = deque()
    tenants = {"f": f, "g": g}
    adapters: dict[tuple[str, int], int | None] = {}
    served = {"f": 0.0, "g": 0.0}
    free = {"f": 0, "g": 0}  # requests that need no slot
    differences = [0.0]

    def add(name: str, adapter: int | None, now: float) -> None:
        weight, most, _ = tenants[name]
        item = (name, next(numbers))
        costs[item], adapters[item] = chance.uniform(0.1, 1.0) * most, adapter
        free[name] += adapter is None
        queue.add(item, adapter, now, tenant=name, weight=weight, cost=costs[item])

    for now in range(60):
        for name, (_, _, drawn) in tenants.items():
            if name == "g" and now < alone:
                continue
            if not free[name]:
                add(name, None, now)
            for _ in range(20 if name == "f" and now < 2 else 1):
                add(name, chance.choice(drawn), now)
        while len(running) > 3:
            queue.finished(running.popleft()[0])
        queue.begin_step(now, [one for _, one in running])
        taken = queue.pop()
        running.append((taken, Running(adapters[taken], 3)))
        free[taken[0]] -= adapters[taken] is None
        if now >= alone:
            served[taken[0]] += costs[taken] / tenants[taken[0]][0]
            differences.append(served["f"] - served["g"])
    assert max(differences) - min(differences) <= f[1] / f[0] + g[1] / g[0] + 1e-9


def test_a_tenant_of_twice_the_weight_gets_twice_the_tokens():
    queue: AdapterQueue[tuple[str, int]] = AdapterQueue(1, patience=1.0)
    for number in range(300):
        queue.add(("a", number), None, 0.0, tenant="a", weight=2.0, cost=7.0)
        queue.add(("b", number), None, 0.0, tenant="b", weight=1.0, cost=7.0)
    shares = Counter(tenant for tenant, _ in admitted(queue, 150))
    assert abs(shares["a"] - 100) <= 1


@pytest.mark.parametrize("adapter", [None, 1])
def test_a_request_passes_a_thousand_of_another_tenant_for_the_same_adapter(adapter):
    queue: AdapterQueue[object] = AdapterQueue(2, patience=1.0)
    for number in range(1000):
        queue.add(number, adapter, 0.0, tenant="a", cost=10.0)
    assert admitted(queue, 3) == [0, 1, 2]
    queue.add("b1", adapter, 0.0, tenant="b", cost=10.0)
    queue.add("b2", adapter, 0.0, tenant="b", cost=10.0)
    assert admitted(queue, 4) == ["b1", 3, "b2", 4]


def test_a_tenant_that_was_idle_has_saved_nothing():
    queue: AdapterQueue[object] = AdapterQueue(1, patience=1.0)
    queue.add("b0", None, 0.0, tenant="b")
    for number in range(100):
        queue.add(number, None, 0.0, tenant="a")
    admitted(queue, 51)
    for number in range(100, 200):
        queue.add(number, None, 0.0, tenant="b")
    assert Counter(number >= 100 for number in admitted(queue, 40)) == {True: 20, False: 20}


def test_after_a_pause_of_all_nobody_owes_anything():
    queue: AdapterQueue[object] = AdapterQueue(1, patience=1.0)
    for number in range(100):
        queue.add(number, None, 0.0, tenant="a")
    for number in admitted(queue, 100):
        queue.finished(number)
    queue.add("a", None, 0.0, tenant="a")
    queue.add("b", None, 0.0, tenant="b")
    assert admitted(queue, 2) == ["a", "b"]


@pytest.mark.parametrize("estimate", [1.0, 1000.0])
def test_what_was_estimated_wrongly_is_made_good(estimate):
    """Tenant a's requests take 10 tokens, whatever is estimated; b's too, and are estimated right."""
    queue: AdapterQueue[tuple[str, int]] = AdapterQueue(1, patience=1.0)
    running: deque[tuple[str, int]] = deque()
    tokens: Counter[str] = Counter()
    for number in range(3000):
        queue.add(("a", number), None, 0.0, tenant="a", cost=estimate)
        queue.add(("b", number), None, 0.0, tenant="b", cost=10.0)
    for _ in range(2000):
        if len(running) == 4:
            queue.finished(running.popleft(), 10.0)
        running += admitted(queue, 1)
        tokens[running[-1][0]] += 10
    queue.check_integrity()
    assert abs(tokens["a"] - tokens["b"]) <= 4 * max(estimate, 10.0) + 20


def test_a_request_that_is_taken_back_is_first_and_charged_once():
    queue: AdapterQueue[str] = AdapterQueue(1, patience=1.0)
    for name in ("a1", "a2"):
        queue.add(name, None, 0.0, tenant="a", cost=5.0)
    queue.add("b", None, 0.0, tenant="b", cost=100.0)
    assert admitted(queue, 2) == ["a1", "b"]
    queue.add_front("b", None, 1.0, tenant="b", cost=100.0)
    for number in range(3):
        queue.add(f"c{number}", 1, 1.0, tenant="c", cost=1.0)
    assert admitted(queue, 1) == ["b"]
    assert queue.shares.accounts["b"].service == 100.0
    queue.finished("b", 30.0)
    assert queue.shares.accounts["b"].service == 30.0
    assert not queue.finished("b", 30.0)


def test_a_request_that_never_ran_costs_nothing():
    queue: AdapterQueue[str] = AdapterQueue(1, patience=1.0)
    queue.add("a", None, 0.0, tenant="a", cost=50.0)
    queue.remove("a")
    assert not queue.finished("a", 10.0)
    assert queue.shares.accounts["a"].service == 0.0


@pytest.mark.parametrize("beside", [True, False], ids=["beside one that always waits", "alone"])
def test_tenants_that_are_gone_are_forgotten(beside):
    queue: AdapterQueue[object] = AdapterQueue(1, patience=1.0)
    for number in range(20 * KEPT):
        if beside:
            queue.add(("always", number), None, 0.0, tenant="always")
        queue.add(number, None, 0.0, tenant=number)
        for item in admitted(queue, 2 if beside and number else 1):
            queue.finished(item, 2.0)
    assert len(queue.shares.accounts) <= 2 * KEPT
    queue.check_integrity()


@pytest.mark.parametrize(("weight", "cost"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, -1.0), (1.0, math.nan)])
def test_a_weight_or_a_cost_that_makes_no_sense_is_refused_and_nothing_waits(weight, cost):
    queue: AdapterQueue[str] = AdapterQueue(1, patience=1.0)
    with pytest.raises(ValueError, match="weight must be positive and the cost not negative"):
        queue.add("a", None, 0.0, tenant="a", weight=weight, cost=cost)
    assert not len(queue)
    assert not queue.shares.accounts
    queue.check_integrity()


# -- head starts


def test_a_head_start_is_worth_its_tokens_and_no_more():
    queue: AdapterQueue[tuple[str, int]] = AdapterQueue(1, patience=1.0)
    for number in range(500):
        queue.add(("b", number), None, 0.0, tenant="b", cost=10.0)
    admitted(queue, 7)
    for number in range(500):
        queue.add(("a", number), None, 0.0, tenant="a", cost=10.0, head_start=200.0)
    ahead = [0]
    for tenant, _ in admitted(queue, 400):
        ahead.append(ahead[-1] + (10 if tenant == "a" else -10))
    assert max(ahead) <= 200 + 10 + 10
    assert ahead[20] == 200  # all of it at once
    assert min(ahead[20:]) >= 200 - 20


def test_one_that_comes_later_waits_for_no_ones_head_start():
    queue: AdapterQueue[tuple[str, int]] = AdapterQueue(1, patience=1.0)
    for number in range(500):
        queue.add(("b", number), None, 0.0, tenant="b", cost=10.0)
        queue.add(("a", number), None, 0.0, tenant="a", cost=10.0, head_start=200.0)
    admitted(queue, 100)
    queue.add(("c", 0), None, 0.0, tenant="c", cost=10.0)
    assert ("c", 0) in admitted(queue, 3)


def test_a_request_that_is_put_back_lets_its_tokens_pass_and_runs_then():
    queue: AdapterQueue[object] = AdapterQueue(1, patience=1.0)
    queue.add("late", None, 0.0, tenant="a", head_start=-50.0)
    for number in range(500):
        queue.add(number, None, 0.0, tenant="b", cost=10.0)
    assert admitted(queue, 7).index("late") == 5


def test_a_request_that_is_put_back_makes_no_ones_backlog_equal_to_a_newcomer():
    queue: AdapterQueue[object] = AdapterQueue(1, patience=1.0)
    for number in range(100):
        queue.add(number, 7, 0.0, tenant="a")
    queue.add("late", None, 0.0, tenant="a", head_start=-1e6)
    queue.begin_step(0.0, [Running(1, 9)])  # no slot is free: only the last one may run
    assert queue.pop() == "late"
    queue.add("b", 7, 0.0, tenant="b")
    assert admitted(queue, 1) == ["b"]


# -- age


def test_another_tenants_age_passes_nobody_that_has_received_less():
    queue: AdapterQueue[object] = AdapterQueue(2, patience=1.0)
    for number in range(100):
        queue.add(number, 1 + number % 2, 0.0, tenant="a")
    admitted(queue, 3)
    queue.add("b", 1, 99.9, tenant="b")
    queue.begin_step(100.0, [Running(1, 9), Running(2, 9)])
    assert queue.pop() == "b"


def test_an_adapter_that_drains_for_one_tenant_still_serves_another_that_has_received_less():
    queue: AdapterQueue[object] = AdapterQueue(1, patience=1.0)
    for number in range(5):
        queue.add(number, 1, 0.0, tenant="a")
    admitted(queue, 5)
    queue.add("cold", 2, 0.0, tenant="a")
    queue.add("later", 1, 0.1, tenant="a")
    queue.add("b", 1, 99.0, tenant="b")
    queue.begin_step(100.0, [Running(1, 9)])
    assert set(queue.draining) == {1}
    assert queue.pop() == "b"
    assert queue.peek() is None


def test_a_cold_request_beside_busy_adapters_of_another_tenant_waits_no_longer_for_all_that_waits_there():
    """Four adapters that always run and have a long line of tenant a's, who therefore waits long: one must drain."""
    slots, seats, patience, longest = 4, 40, 10, 20
    ours = OurQueue(slots, patience)
    engine = Engine(ours, slots, seats)
    numbers, chance = count(), random.Random(3)
    cold: list[Job] = []
    for now in range(1500):
        arriving = [
            Job(next(numbers), chance.randint(1, slots), now, chance.randint(5, longest), "a", cost=12.0)
            for _ in range(400 - len(ours.queue))
        ]
        if now % 100 == 50:
            cold.append(Job(next(numbers), 100 + len(cold), now, 4, "b", cost=4.0))
            arriving.append(cold[-1])
        engine.step(arriving)
    assert ours.queue.mean_wait > 5 * patience
    assert patience < max(job.wait(1500) for job in cold) <= patience + 2 * longest + 1


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.one_of(st.none(), st.integers(1, 8)),
            st.integers(1, LONGEST),
            st.sampled_from("aaabc"),
            st.sampled_from([0.0, 0.0, 0.0, 20.0]),
        ),
        min_size=1,
        max_size=120,
    ),
    st.integers(0, 12),
    st.sampled_from([SEATS, 8]),
)
@settings(max_examples=200, deadline=None)
def test_once_aged_out_a_request_waits_only_for_those_that_rank_before_it(arrivals, patience, seats):
    """It is admitted within (b + 1) · 2R, b being the requests admitted while they ranked before it; one of eight seats
    is kept, none of five."""
    ours = OurQueue(SLOTS, patience, seats)
    queue = ours.queue
    engine = Engine(ours, SLOTS, seats)
    pending, at = deque(), 0
    for number, (gap, adapter, length, tenant, start) in enumerate(arrivals):
        at += gap
        pending.append(Job(number, adapter, at, length, tenant, cost=length, head_start=start))
    aged: dict[Job, tuple[int, int]] = {}  # when, and b
    take = ours.take

    def counting() -> Job | None:
        entries = queue._waiting.entries
        ranks = {job: entries[job].rank for job in entries}
        taken = take()
        if taken is not None:
            for job, (since, before) in list(aged.items()):
                if job in ranks and ranks[taken] < ranks[job]:
                    aged[job] = since, before + 1
        return taken

    ours.take = counting  # type: ignore[method-assign]
    while pending or len(queue) or engine.running:
        for job in queue:
            mean = queue.shares.accounts[job.tenant].mean_wait
            if job not in aged and engine.now - job.arrival > max(patience, AGE_FACTOR * mean):
                aged[job] = engine.now, 0
        now = engine.now
        arriving = []
        while pending and pending[0].arrival <= now:
            arriving.append(pending.popleft())
        engine.step(arriving)
        for since, before in (aged[job] for job in queue if job in aged):
            assert now < since + (before + 1) * 2 * (LONGEST + (seats > SEATS))
        queue.check_integrity()
        assert now < 10_000


def flood(adapters_a: list[int], adapters_b: list[int], part: float, *, tenants: bool, steps: int = 2500) -> list[int]:
    """Tenant a sends twenty times its half of the engine, tenant b `part` of its own; returns the waits of b's."""
    capacity = 16 / 12.5
    jobs = busy(8, 16, [(10 * capacity, adapters_a, "a"), (part * capacity / 2, adapters_b, "b")], tenants, steps)
    return sorted(job.wait(steps) for job in jobs if job.tenant == "b" or job.number % 2)


def busy(slots, seats, loads, tenants: bool, steps: int) -> list[Job]:
    queue = OurQueue(slots, patience=10)
    engine = Engine(queue, slots, seats)
    numbers = count(2)
    chances = {name: random.Random(name) for _, _, name in loads}
    watched = []
    for now in range(steps):
        arriving = []
        for rate, adapters, name in loads:
            chance = chances[name]
            if name == "a" and len(queue.queue) > 1000:
                continue  # there is a limit on what waits; this one is never reached by b
            number = int(rate) + (chance.random() < rate % 1)
            popular = [1 / rank for rank in range(1, len(adapters) + 1)]
            for adapter in chance.choices(adapters, popular, k=number):
                length = chance.randint(5, 20)
                job = Job(
                    2 * next(numbers) + (name == "b"), adapter, now, length, name if tenants else None, cost=length
                )
                arriving.append(job)
                if name == "b" and now < steps - 500:
                    watched.append(job)
        engine.step(arriving)
    return watched


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("adapters_a", "adapters_b"),
    [(range(1, 9), range(1, 9)), (range(1, 9), range(9, 17)), (range(1, 51), range(51, 101))],
    ids=["shared", "distinct", "a hundred"],
)
def test_beside_a_tenant_that_sends_twenty_times_its_share_others_wait_as_with_half_the_engine_alone(
    adapters_a, adapters_b, part
):
    def quantile(waits: list[int]) -> int:
        return waits[math.ceil(0.99 * len(waits)) - 1]

    half = busy(4, 8, [(part * 16 / 12.5 / 2, list(adapters_b), "b")], True, 2500)
    alone = quantile(sorted(job.wait(2500) for job in half))
    beside = quantile(flood(list(adapters_a), list(adapters_b), part, tenants=True))
    assert beside <= 1.3 * alone + 8  # a seat becomes free every step, a slot less often
    assert quantile(flood(list(adapters_a), list(adapters_b), part, tenants=False)) > 10 * (beside + 1)

"""Placement: quality is never given up beyond the margin, no replica goes over its bound, and a replica that comes or
goes moves its own share of the adapters only."""

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from router.placement import (
    DEVICE,
    DISK,
    HOME,
    HOST,
    LEAST_LOADED,
    REPORT_LAG_S,
    RESIDENT,
    SENT_HORIZON_S,
    SPREAD,
    TIERS,
    Option,
    Placement,
    PlacementSettings,
    ReplicaState,
    Reports,
)

MARGIN = 0.05
ADAPTERS = [f"adapter-{number}" for number in range(12)]


def policy(margin: float = MARGIN, **settings_: object) -> Placement:
    return Placement(margin, PlacementSettings(**settings_))


def option(name: str, quality: float = 1.0) -> Option:
    return Option(name, name, quality)


def idle(*names: str, **tiers: dict[str, str]) -> dict[str, ReplicaState]:
    return {name: ReplicaState(tiers.get(name, {}), 0) for name in names}


states = st.dictionaries(
    st.integers(0, 8).map("replica-{}".format),
    st.builds(
        ReplicaState,
        st.dictionaries(st.sampled_from(ADAPTERS), st.sampled_from([DEVICE, HOST])),
        st.integers(0, 40),
    ),
    min_size=1,
)
options = st.lists(
    st.builds(option, st.sampled_from(ADAPTERS), st.floats(0, 1)),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.learnware,
).map(lambda some: sorted(some, key=lambda one: -one.quality))


@pytest.mark.parametrize(
    ("loads", "factor", "free", "bound"),
    [
        ([0], 1.5, 8, 8),
        ([5, 4, 0], 1.5, 1, 5),  # of 10 requests with this one a share is 3 1/3, half as much again 5
        ([6, 4, 0], 1.5, 1, 6),  # of 11, 3 2/3 and 5.5
        ([9, 0, 0], 1.0, 1, 4),
        ([9, 0, 0], 1.0, 6, 6),
        ([40, 40], 2.0, 8, 81),
    ],
)
def test_a_replica_gets_requests_up_to_its_bound_and_not_one_more(loads, factor, free, bound):
    """By hand: the share of all requests with the new one, `factor` times, rounded up; and never below `free`."""
    placement = policy(load_factor=factor, free_load=free)
    assert placement.bound(loads) == bound


def test_at_its_bound_a_replica_is_passed_over_and_below_it_is_not():
    """Of two, one is at its bound that has three times as many as the other will have with the new request."""
    placement = policy(load_factor=1.5, free_load=1)
    first, second = placement.order("x", ["a", "b"])
    for load, others, taken in ((2, 0, first), (3, 0, second), (5, 1, first), (6, 1, second)):
        replicas = {first: ReplicaState({}, load), second: ReplicaState({}, others)}
        assert placement.place([option("x")], replicas).replica == taken, (load, others)


factors = st.sampled_from([1.0, 1.25, 1.5, 2.0, 3.0])
"""Those of which a multiple is a number without rounding."""


def full(replicas: dict[str, ReplicaState], factor: float, free: int) -> set[str]:
    """Replicas that have `free` requests or more, and `factor` times their share of all, the new one among them."""
    everything = 1 + sum(state.load for state in replicas.values())
    return {
        name
        for name, state in replicas.items()
        if state.load >= free and state.load * len(replicas) >= factor * everything
    }


@pytest.mark.slow
@given(options, states, st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_quality_is_never_given_up_beyond_the_margin_and_only_for_a_faster_tier(some, replicas, margin):
    placement = policy(margin)
    placed = placement.place(some, replicas)
    assert some[0].quality - placed.option.quality <= margin
    assert placed.tier == replicas[placed.replica].adapters.get(placed.option.adapter, DISK)
    defaults = PlacementSettings()
    open_ones = replicas.keys() - full(replicas, defaults.load_factor, defaults.free_load)
    for better in some[: some.index(placed.option)]:
        for name in open_ones:
            assert TIERS.index(replicas[name].adapters.get(better.adapter, DISK)) > TIERS.index(placed.tier)


@pytest.mark.slow
@given(options, states, factors, st.integers(1, 10))
@settings(max_examples=300, deadline=None)
def test_no_request_goes_to_a_full_replica(some, replicas, factor, free):
    placed = policy(load_factor=factor, free_load=free).place(some, replicas)
    assert placed.replica not in full(replicas, factor, free)


@given(st.lists(st.sampled_from(ADAPTERS), min_size=1, max_size=300), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_requests_that_stay_never_fill_a_replica_over_its_share(names, replicas):
    placement = policy(load_factor=1.25, free_load=1)
    loads = Counter({f"replica-{number}": 0 for number in range(replicas)})
    for name in names:
        placed = placement.place([option(name)], {key: ReplicaState({}, load) for key, load in loads.items()})
        loads[placed.replica] += 1
        assert loads[placed.replica] <= -(-1.25 * sum(loads.values()) // replicas)


@given(st.integers(1, 12), st.integers(0, 11))
@settings(max_examples=50, deadline=None)
def test_a_replica_that_goes_moves_only_its_own_adapters_and_one_that_comes_only_those_it_gets(count, gone):
    names = [f"replica-{number}" for number in range(count + 1)]
    rest = [name for name in names if name != names[gone % len(names)]]
    for adapter in (f"adapter-{number}" for number in range(60)):
        full, less = policy().order(adapter, names), policy().order(adapter, rest)
        assert [name for name in full if name in rest] == list(less)


def test_adapters_are_spread_evenly_over_replicas():
    names = [f"replica-{number}" for number in range(8)]
    homes = Counter(policy().order(f"adapter-{number}", names)[0] for number in range(4000))
    assert all(400 < homes[name] < 600 for name in names)


def test_a_learnware_goes_home_when_nothing_speaks_against_it():
    placement = policy()
    replicas = idle("a", "b", "c")
    home = placement.order("x", replicas)[0]
    placed = placement.place([option("x")], replicas)
    assert (placed.replica, placed.why, placed.tier) == (home, HOME, DISK)


def test_a_replica_that_holds_the_adapter_goes_before_its_home():
    placement = policy()
    second = placement.order("x", ["a", "b", "c"])[1]
    placed = placement.place([option("x")], idle("a", "b", "c", **{second: {"x": DEVICE}}))
    assert (placed.replica, placed.why, placed.tier) == (second, RESIDENT, DEVICE)


def test_of_replicas_that_have_it_on_the_device_the_one_with_less_to_do_gets_it():
    placement = policy()
    first, second = placement.order("x", ["a", "b"])
    replicas = {first: ReplicaState({"x": DEVICE}, 3), second: ReplicaState({"x": DEVICE}, 2)}
    placed = placement.place([option("x")], replicas)
    assert (placed.replica, placed.why) == (second, RESIDENT)


def test_a_hot_learnware_spreads_to_the_next_of_its_order():
    placement = policy()
    first, second, _ = placement.order("x", ["a", "b", "c"])
    replicas = idle("a", "b", "c") | {first: ReplicaState({"x": DEVICE}, 30)}
    placed = placement.place([option("x")], replicas)
    assert (placed.replica, placed.why) == (second, SPREAD)


def test_a_resident_learnware_answers_for_one_that_is_hardly_better():
    replicas = idle("a", "b", a={"good": DEVICE}, b={"best": HOST})
    close, far = option("good", 1 - 0.9 * MARGIN), option("good", 1 - 1.1 * MARGIN)
    assert policy().place([option("best"), close], replicas).option == close
    assert policy().place([option("best"), far], replicas).option.learnware == "best"
    assert policy(0.0).place([option("best"), close], replicas).option.learnware == "best"


def test_a_resident_learnware_on_a_replica_at_its_bound_does_not_count():
    replicas = {"a": ReplicaState({"good": DEVICE}, 50), "b": ReplicaState({}, 0)}
    placed = policy().place([option("best"), option("good", 0.99)], replicas)
    assert (placed.option.learnware, placed.replica) == ("best", "b")


def test_the_base_model_goes_where_least_is_to_do():
    replicas = {"a": ReplicaState({}, 3), "b": ReplicaState({}, 2)}
    placed = policy().place([Option(None, None, 1.0)], replicas)
    assert (placed.replica, placed.why) == ("b", LEAST_LOADED)


def test_nothing_to_choose_from_is_an_error():
    with pytest.raises(ValueError, match="0 options, 1 replicas"):
        policy().place([], idle("a"))
    with pytest.raises(ValueError, match="1 options, 0 replicas"):
        policy().place([option("x")], {})


# -- what is known of replicas


def test_requests_sent_since_a_report_count_until_the_next_one_or_the_horizon():
    reports = Reports()
    first = {"adapters": {"x": DEVICE}, "running": 2, "waiting": 1}
    assert reports.states({"a": first}, 10.0)["a"] == ReplicaState({"x": DEVICE}, 3)
    reports.note_sent("a", 10.1)
    reports.note_sent("a", 10.2)
    assert reports.states({"a": first}, 10.3)["a"].load == 5
    assert reports.states({"a": dict(first)}, 10.4)["a"].load == 5, "sent again, but nothing new"
    late = 10.15 + REPORT_LAG_S  # taken between the two
    assert reports.states({"a": first | {"running": 3}}, late)["a"].load == 5
    assert reports.states({"a": first | {"running": 3}}, late + SENT_HORIZON_S)["a"].load == 4


def test_a_replica_that_is_gone_is_forgotten():
    reports = Reports()
    reports.states({"a": {}, "b": {}}, 0.0)
    reports.note_sent("a", 0.1)
    assert set(reports.states({"b": {}}, 0.2)) == {"b"}
    assert reports.states({"a": {}, "b": {}}, 0.3)["a"].load == 0


def test_a_replica_that_has_not_reported_yet_counts_as_empty():
    assert Reports().states({"a": {}}, 0.0) == {"a": ReplicaState({}, 0)}


def test_a_placement_among_eight_replicas_takes_a_fraction_of_a_millisecond():
    """Five learnwares within the margin, 100 adapters; processor time, since tests share the machine."""
    draw = random.Random(0)
    names = [f"learnware-{number}@0123456789ab" for number in range(100)]
    reports = {
        f"replica-{number}": {"adapters": dict.fromkeys(draw.sample(names, 50), HOST), "running": 8, "waiting": number}
        for number in range(8)
    }
    placement, known = policy(1.0), Reports()
    asked = [[option(name) for name in draw.sample(names, 5)] for _ in range(400)]
    taken = []
    for number, some in enumerate(asked * 2):
        started = time.thread_time()
        placed = placement.place(some, known.states(reports, float(number)))
        known.note_sent(placed.replica, float(number))
        taken.append(time.thread_time() - started)
    assert sorted(taken)[len(taken) // 2] < 0.0003

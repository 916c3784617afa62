"""Who is admitted to a replica that is full, and what those hear who are not."""

import pytest

from serving.access.tenant import Tenant
from serving.replica.places import LONGEST_RETRY_S, MOST_TOLD, Places
from specs.errors import InvalidInput, RateLimited

LIGHT, HEAVY = Tenant("light"), Tenant("heavy")


class Replica:
    """Places with a clock and a report that tests set: a batch of 4, and 8 that may wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self.report: dict[str, object] | None = None
        self.places = Places(4, 8, 30.0, lambda: self.report, lambda: self.now)

    def enter(self, tenant: Tenant, count: int = 1) -> None:
        self.places.check(tenant, count)
        self.places.take(tenant, count)


@pytest.fixture
def replica() -> Replica:
    return Replica()


def test_who_is_alone_may_use_the_batch_and_all_that_may_wait(replica):
    for _ in range(12):
        replica.enter(HEAVY)
    assert replica.places.waiting == 8
    with pytest.raises(RateLimited, match="8 requests wait"):
        replica.enter(HEAVY)
    replica.places.give_back(HEAVY, 1)
    replica.enter(HEAVY)


def test_each_sequence_takes_a_place(replica):
    replica.enter(HEAVY, 10)
    with pytest.raises(RateLimited):
        replica.enter(HEAVY, 3)
    replica.enter(HEAVY, 2)


def test_more_than_a_replica_holds_is_never_admitted_and_says_so(replica):
    with pytest.raises(InvalidInput, match=r"13 answers .* holds 12"):
        replica.enter(HEAVY, 13)


def test_a_tenant_below_its_share_is_admitted_to_a_full_replica_up_to_twice_the_bound(replica):
    replica.enter(HEAVY, 12)
    for _ in range(6):  # half of the places
        replica.enter(LIGHT)
    with pytest.raises(RateLimited):
        replica.enter(LIGHT)
    with pytest.raises(RateLimited):
        replica.enter(HEAVY)
    for number in range(2):
        replica.enter(Tenant(f"other-{number}"))
    with pytest.raises(RateLimited):  # 16 wait
        replica.enter(Tenant("one more"))


def test_shares_follow_weights(replica):
    replica.enter(HEAVY, 12)
    double = Tenant("double", weight=2.0)
    replica.enter(double, 8)
    with pytest.raises(RateLimited):
        replica.enter(double)


def test_a_batch_that_is_narrower_than_it_may_be_is_seen_while_something_waits(replica):
    replica.enter(HEAVY, 10)
    replica.report = {"running": 1, "waiting": {"slot": 9}}
    assert replica.places.waiting == 9
    with pytest.raises(RateLimited):
        replica.places.check(HEAVY)
    replica.report = {"running": 1, "waiting": {"slot": 0}}  # a moment later all of them have come in
    assert replica.places.waiting == 6
    replica.places.check(HEAVY)


def test_while_something_waits_too_long_nobody_enters_who_has_its_share_there(replica):
    replica.enter(HEAVY, 6)
    replica.report = {"running": 4, "waiting": {"slot": 2}, "oldest_wait_s": 30.5}
    with pytest.raises(RateLimited, match="longer than 30 s"):
        replica.places.check(HEAVY)
    replica.places.check(LIGHT)
    replica.report = {"running": 4, "waiting": {"slot": 2}, "oldest_wait_s": 29.5}
    replica.places.check(HEAVY)
    replica.places.give_back(HEAVY, 6)
    replica.report = {"running": 0, "waiting": {"slot": 2}, "oldest_wait_s": 30.5}  # of a moment ago
    replica.places.check(HEAVY)


def seconds_told(replica, tenant, count=1) -> int:
    with pytest.raises(RateLimited) as refused:
        replica.places.check(tenant, count)
    return refused.value.retry_after_s


def serving_two_a_second(replica) -> None:
    replica.enter(HEAVY, 12)
    for _ in range(20):
        replica.now += 0.5
        replica.places.give_back(HEAVY, 1)
        replica.enter(HEAVY)


@pytest.mark.parametrize(("count", "seconds"), [(1, 1), (6, 3), (12, 6)])
def test_the_time_to_come_back_follows_the_rate_of_service(replica, count, seconds):
    serving_two_a_second(replica)
    assert seconds_told(replica, HEAVY, count) == seconds
    replica.now += 1000.0
    assert seconds_told(replica, HEAVY, 12) == LONGEST_RETRY_S


def test_a_burst_is_told_to_come_one_after_the_other(replica):
    serving_two_a_second(replica)
    told = [seconds_told(replica, HEAVY) for _ in range(10)]
    assert told == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    replica.now += 10.0  # they have had their turns
    assert seconds_told(replica, HEAVY) == 1


def test_nobody_is_told_to_stay_away_longer_than_is_known(replica):
    serving_two_a_second(replica)
    assert max(seconds_told(replica, HEAVY) for _ in range(200)) == LONGEST_RETRY_S


def test_a_tenants_burst_does_not_move_the_turns_of_others(replica):
    serving_two_a_second(replica)
    for _ in range(50):
        seconds_told(replica, HEAVY)
    replica.enter(LIGHT, 6)
    # twice a second, of which half is its share
    assert [seconds_told(replica, LIGHT) for _ in range(3)] == [4, 5, 6]


def test_of_many_tenants_only_those_with_a_turn_to_come_are_remembered(replica):
    serving_two_a_second(replica)
    replica.enter(LIGHT, 6)
    for number in range(3 * MOST_TOLD):
        seconds_told(replica, Tenant(f"{number}"), 3)
        replica.now += 1.0
    assert len(replica.places._told) < MOST_TOLD + 1


def test_idle_time_does_not_count_as_slow_service(replica):
    for _ in range(20):
        replica.enter(HEAVY)
        replica.now += 0.25
        replica.places.give_back(HEAVY, 1)
        replica.now += 100.0
    replica.enter(HEAVY, 12)
    with pytest.raises(RateLimited) as refused:
        replica.places.check(HEAVY, 4)
    assert refused.value.retry_after_s == 1

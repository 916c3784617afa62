"""The host tier: reads beside its callers, leases, failures that fail their own, room that is waited for."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from serving.paging.tier import STOPPING, HostTier, Loaded

BUDGET = 30
WAIT_S = 5.0


class Disk:
    """Adapters of 10 bytes by number; reads can be held up, and some fail."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.broken: set[int] = set()
        self.sizes: dict[int, int] = {}

    def size(self, number: int) -> int:
        if number < 0:
            raise FileNotFoundError("its folder is missing")
        return self.sizes.get(number, 10)

    def read(self, number: int) -> Loaded[str]:
        assert self.open.wait(WAIT_S)
        self.reads.append(number)
        if number in self.broken:
            raise ValueError(f"{number} is broken")
        return Loaded(f"adapter {number}", self.sizes.get(number, 10))


class Asked:
    """One `acquire` and its answer."""

    def __init__(self, tier: HostTier[int, str], number: int) -> None:
        self.reason: str | None = "unanswered"
        self._answered = threading.Event()
        self.thread = ""
        tier.acquire(number, self._done)

    def _done(self, reason: str | None) -> None:
        self.reason, self.thread = reason, threading.current_thread().name
        self._answered.set()

    def wait(self) -> str | None:
        assert self._answered.wait(WAIT_S), "no answer"
        return self.reason

    @property
    def answered(self) -> bool:
        return self._answered.is_set()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def tier(disk: Disk) -> Iterator[HostTier[int, str]]:
    made: HostTier[int, str] = HostTier(BUDGET, lambda number: number, disk.size, disk.read)
    yield made
    disk.open.set()
    made.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_adapter_is_read_once_for_all_that_wait_and_not_by_them(tier, disk):
    disk.open.clear()
    asked = [Asked(tier, 1) for _ in range(3)]
    assert not any(one.answered for one in asked)
    assert tier.waiting() == 1
    disk.open.set()
    assert [one.wait() for one in asked] == [None] * 3
    assert disk.reads == [1]
    assert {one.thread for one in asked} == {"adapter-loader"}
    assert tier.held(1) == "adapter 1"
    assert (tier.cache.hits, tier.cache.misses) == (0, 3)


def test_what_is_in_memory_is_granted_at_once(tier, disk):
    Asked(tier, 1).wait()
    disk.open.clear()
    again = Asked(tier, 1)
    assert again.answered
    assert again.reason is None
    assert tier.cache.hits == 1


@pytest.mark.parametrize(("number", "reason"), [(7, "7 is broken"), (-1, "its folder is missing"), (8, "8 has")])
def test_a_failure_fails_those_that_wait_for_it_and_leaves_no_lease(tier, disk, number, reason):
    disk.broken = {7}
    disk.sizes = {8: BUDGET + 1}
    bad, good = Asked(tier, number), Asked(tier, 1)
    assert (reason.replace("8 has", "the adapter has 31 bytes")) in str(bad.wait())
    assert good.wait() is None
    assert tier.cache.leased == {1}
    assert tier.counts.failures == 1
    disk.broken.clear()
    if number == 7:
        assert Asked(tier, 7).wait() is None, "a failure is not remembered"


def test_a_load_waits_until_leases_leave_room(tier, disk):
    for number in (1, 2, 3):
        assert Asked(tier, number).wait() is None
    waiting = Asked(tier, 4)
    until(lambda: tier.counts.waited_for_room == 1)
    assert not waiting.answered
    assert set(tier.sizes()) == {1, 2, 3}
    tier.release(2)
    assert waiting.wait() is None
    assert set(tier.sizes()) == {1, 3, 4}
    assert disk.reads == [1, 2, 3, 4]


def test_memory_stays_within_its_budget(tier):
    for number in range(20):
        assert Asked(tier, number).wait() is None
        tier.release(number)
        assert sum(tier.sizes().values()) <= BUDGET
    tier.cache.check_integrity()


def test_a_removed_adapter_is_read_again(tier, disk):
    Asked(tier, 1).wait()
    tier.release(1)
    assert tier.remove(1)
    assert not tier.remove(1)
    assert tier.held(1) is None
    Asked(tier, 1).wait()
    assert disk.reads == [1, 1]
    tier.clear()
    assert tier.sizes() == {}


def test_a_caller_without_a_lease_reads_itself_and_is_counted(tier, disk):
    assert tier.load_now(5) == "adapter 5"
    assert tier.counts.reads_by_callers == 1
    assert tier.held(5) == "adapter 5"
    disk.broken = {6}
    with pytest.raises(ValueError, match="6 is broken"):
        tier.load_now(6)


def test_an_adapter_that_is_pinned_to_a_slot_needs_no_copy(disk):
    tier: HostTier[int, str] = HostTier(BUDGET, lambda number: number, disk.size, disk.read, settled={1}.__contains__)
    pinned = Asked(tier, 1)
    assert pinned.answered
    assert pinned.reason is None
    tier.release(1)
    assert disk.reads == []
    tier.close()


def test_whoever_waits_when_the_tier_closes_is_told_so(disk):
    tier: HostTier[int, str] = HostTier(BUDGET, lambda number: number, disk.size, disk.read)
    disk.open.clear()
    first, second = Asked(tier, 1), Asked(tier, 2)
    until(lambda: tier.waiting() == 2)
    closing = threading.Thread(target=tier.close)
    closing.start()
    disk.open.set()
    closing.join(WAIT_S)
    assert second.wait() == STOPPING
    assert first.wait() in (None, STOPPING)
    assert Asked(tier, 3).wait() == STOPPING


def test_changes_are_told(disk):
    told: list[int] = []
    tier: HostTier[int, str] = HostTier(
        BUDGET, lambda number: number, disk.size, disk.read, lambda: told.append(len(told))
    )
    Asked(tier, 1).wait()
    assert told
    before = len(told)
    tier.remove(1)
    assert len(told) == before + 1
    tier.close()

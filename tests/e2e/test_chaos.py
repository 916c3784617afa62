"""The scenarios of `benchmarks.chaos` that harm nobody, small, on the shared stack."""

import pytest

from benchmarks.chaos import cancelled, door, malformed
from benchmarks.chaos.figures import Findings
from benchmarks.chaos.main import summarise
from benchmarks.chaos.target import FIRST, SECOND, Target
from tests.e2e.support import ADMIN_KEY, OTHER_KEY, USER_KEY, Stack

pytestmark = pytest.mark.e2e


@pytest.fixture
def target(stack: Stack) -> Target:
    return Target(stack.url, {FIRST: USER_KEY, SECOND: OTHER_KEY}, ADMIN_KEY, stack.process.pid)


def missed(name: str, findings: Findings, *timed: str) -> list[str]:
    """The aims that are missed, but for those of times, which a busy machine may miss."""
    return [one for one in summarise({name: findings})[4] if one not in timed]


def test_no_malformed_body_is_answered_5xx_and_a_good_request_succeeds_afterwards(target: Target):
    findings = malformed.run(target, short=True, count=340)
    assert findings.figures["malformed_bodies"] == 340
    assert missed("malformed", findings) == [], findings.faults


def test_a_second_after_the_last_client_hung_up_nothing_runs_for_them(target: Target):
    findings = cancelled.run(target, short=True, count=48)
    assert findings.figures["cancelled_requests"] == 48
    assert missed("cancelled", findings) == [], findings.faults


def test_half_open_connections_and_slow_readers_keep_nobody_out(target: Target):
    plan = door.Plan(half_open=400, slow_readers=20, rounds=1, requests=8)
    findings = door.run(target, short=True, plan=plan)
    assert findings.figures["door_opened"] + sum(one["refused"] for one in findings.details["attacks"]) >= 420
    assert missed("door", findings, "door_ttft_p99_ratio") == [], findings.faults
    assert findings.figures["door_ttft_p99_ratio"] < 3

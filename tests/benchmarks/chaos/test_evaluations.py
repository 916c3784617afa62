"""Each scenario's evaluation: on records of a stack that does what it must no aim is missed, and each single thing that
goes wrong is found."""

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.chaos import cancelled, disk, door, kills, malformed, overload, soak, tenants
from benchmarks.chaos.bodies import malformed as body_of
from benchmarks.chaos.client import End, Outcome
from benchmarks.chaos.figures import MIB, Findings, p99_ratio, slope_per_minute
from benchmarks.chaos.main import summarise
from benchmarks.chaos.target import Logged


def missed(name: str, findings: Findings) -> list[str]:
    return summarise({name: findings})[4]


def answer(sent: float = 0.0, ttft: float = 1.0, tokens: int = 4, **changed: Any) -> Outcome:
    times = tuple(sent + ttft + 0.1 * number for number in range(tokens))
    made = Outcome(sent, sent + ttft + 0.1 * tokens, End.DONE, 200, times, "matched")
    return made._replace(**changed)


REFUSAL = Outcome(0.0, 0.02, End.REFUSED, 429, (), "", "1")

# -- kills

KILL = kills.Kill("engine killed", 10.0, 10.5, 70.0, 60)
STOP = kills.Kill("engine stopped", 10.0, 18.0, 80.0, 60)


def killed(kill: kills.Kill = STOP, outcomes: Sequence[Outcome] = ()) -> list[str]:
    return missed("kills", kills.evaluate([KILL, kill], [answer(), answer(9.0, tokens=30), *outcomes], [0.001]))


def test_kills_that_nobody_notices_miss_nothing():
    broken = answer(9.0, end=End.ERROR_EVENT)
    large = Outcome(0.0, 1.0, End.NO_ANSWER, None, large=True)
    hung_up = Outcome(0.0, 1.0, End.CANCELLED, None)
    assert killed(outcomes=[broken, large, hung_up]) == []


@pytest.mark.parametrize(
    ("outcome", "figure"),
    [
        (Outcome(9.0, 10.0, End.NO_ANSWER, None), "kills_failed_before_token"),
        (Outcome(9.0, 10.0, End.ERROR, 503), "kills_failed_before_token"),
        (REFUSAL, "kills_failed_before_token"),
        (Outcome(9.0, 10.0, End.ERROR_EVENT, 200), "kills_failed_before_token"),
        (answer(9.0, end=End.CUT), "kills_broken_without_event"),
        (answer(9.0, end=End.TIMEOUT), "kills_never_ended"),
        (answer(8.0, 1.0, 2, ended=40.0, end=End.ERROR_EVENT), "kills_longest_hang_s"),
    ],
)
def test_a_request_that_a_kill_harms_is_found(outcome: Outcome, figure: str):
    assert figure in killed(outcomes=[outcome])


@pytest.mark.parametrize(
    ("changed", "figure"),
    [
        ({"replaced": None}, "kills_not_replaced"),
        ({"noticed": 26.0}, "kills_hang_noticed_s"),
        ({"noticed": None}, "kills_hang_unnoticed"),
        ({"waiting": 49}, "kills_least_waiting"),
    ],
)
def test_a_kill_that_is_noticed_late_or_mended_never_is_found(changed: dict[str, Any], figure: str):
    assert figure in killed(STOP._replace(**changed))


# -- malformed


def tried(status: int | None = 400, **changed: Any) -> malformed.Tried:
    return malformed.Tried(body_of(1, 2), status, 0.01, "said")._replace(**changed)


def test_bodies_that_are_refused_or_taken_miss_nothing():
    late = tried(None, timed_out=True)
    assert missed("malformed", malformed.evaluate([tried(), tried(200), tried(429), late], [True])) == []


@pytest.mark.parametrize(
    ("wrong", "figure"),
    [(tried(500), "malformed_5xx"), (tried(503), "malformed_5xx"), (tried(None), "malformed_unanswered")],
)
def test_a_body_that_breaks_something_is_found_and_kept(wrong: malformed.Tried, figure: str):
    findings = malformed.evaluate([tried(), wrong], [True])
    assert missed("malformed", findings) == [figure]
    assert findings.details["offending"][0]["number"] == wrong.body.number
    assert findings.faults


def test_a_good_request_that_fails_afterwards_is_found():
    assert missed("malformed", malformed.evaluate([tried()], [True, False])) == ["malformed_good_failed"]


# -- cancelled

QUIET = cancelled.Watched(0, 0, 0, 1.0)


@pytest.mark.parametrize(
    ("watched", "figures"),
    [
        (QUIET, []),
        (QUIET._replace(at_once=3), []),  # an idle engine's last report is from before
        (QUIET._replace(at_once=3, reported=2), ["cancelled_left"]),
        (QUIET._replace(tokens_for_nobody=40), ["cancelled_tokens_for_nobody"]),
    ],
)
def test_what_is_left_of_cancelled_requests_is_found(watched: cancelled.Watched, figures: list[str]):
    assert missed("cancelled", cancelled.evaluate(["mid-stream"], watched)) == figures


# -- door


def rounds(slower: float = 1.0, **changed: Any) -> Findings:
    without = [answer(ttft=1 + 0.01 * number) for number in range(100)]
    with_ = [answer(ttft=slower * (1 + 0.01 * number), **changed) for number in range(100)]
    attack = door.Attack(4_000, 0, 3_000)
    return door.evaluate([door.Round(without, None), door.Round(with_, attack)], [0.001])


def test_a_door_that_stays_open_misses_nothing_and_one_that_does_not_is_found():
    assert missed("door", rounds(1.1)) == []
    assert missed("door", rounds(1.3)) == ["door_ttft_p99_ratio"]
    assert missed("door", rounds(end=End.TIMEOUT)) == ["door_others_failed"]
    low, high = rounds(1.1).intervals["door_ttft_p99_ratio"]
    assert low < 1.1 < high


def test_a_door_that_lets_nobody_in_misses_its_aims():
    assert "door_ttft_p99_ratio" in missed("door", rounds(tokens=0, end=End.NO_ANSWER, status=None))


# -- overload

CLOSED = [overload.Closed(8, 10.0, [answer(ttft=2.0)] * 20), overload.Closed(16, 10.0, [answer(ttft=4.0)] * 40)]


def overloaded(
    good: int = 30, refused: Outcome = REFUSAL, router: float = 0.0, edge_ms: int = 20, **changed: Any
) -> list[str]:
    outcomes = [answer(ttft=5.0, **changed)] * good + [refused] * 160
    logged = [Logged(200, 5_000, "app"), Logged(429, edge_ms, "front")]
    made = overload.Open(20.0, 0.0, 10.0, outcomes, logged, router, [0.001])
    return missed("overload", overload.evaluate(CLOSED, made))


@pytest.mark.parametrize(
    ("changed", "figures"),
    [
        ({}, []),
        ({"good": 25}, ["overload_goodput_share"]),
        ({"ended": 2.0}, ["overload_goodput_share"]),
        ({"ended": 30.0}, ["overload_goodput_share"]),
        ({"tokens": (9.0,), "sent": 0.5}, ["overload_ttft_p99_ratio"]),
        ({"reason": "base:router-deadline"}, ["overload_router_fallbacks"]),
        ({"router": 1.0}, ["overload_router_fallbacks"]),
        ({"edge_ms": 80}, ["overload_refusal_edge_p99_ms"]),
        (
            {"refused": REFUSAL._replace(end=End.ERROR, retry_after="")},
            ["overload_refused_without_time", "overload_failed"],
        ),
        ({"refused": REFUSAL._replace(end=End.TIMEOUT, status=None)}, ["overload_failed"]),
    ],
)
def test_an_overload_is_held_to_its_aims(changed: dict[str, Any], figures: list[str]):
    if "tokens" in changed:
        changed = dict(changed)
        times = changed.pop("tokens")
        outcomes = [answer(ttft=5.0)._replace(tokens=times, **changed)] * 30 + [REFUSAL] * 160
        made = overload.Open(20.0, 0.0, 10.0, outcomes, [Logged(429, 20, "front")], 0.0, [0.001])
        assert missed("overload", overload.evaluate(CLOSED, made)) == figures
    else:
        assert overloaded(**changed) == figures


def test_a_stack_that_refuses_nothing_is_found():
    made = overload.Open(20.0, 0.0, 10.0, [answer(ttft=5.0)] * 40, [], 0.0, [0.001])
    findings = overload.evaluate(CLOSED, made)
    assert "overload_refusal_edge_p99_ms" in missed("overload", findings)
    assert any("nothing was refused" in fault for fault in findings.faults)


# -- tenants


def held(flood: float = 1.0, urgent: float = 1.0, unended: int = 0, **changed: Any) -> list[str]:
    made = [
        tenants.Round(arm, [answer(ttft=factor, **changed)] * 20, [REFUSAL], unended)
        for arm, factor in zip(tenants.ARMS, (1.0, flood, urgent), strict=True)
    ]
    return missed("tenants", tenants.evaluate(made, [0.001], has_keys=True))


def test_a_fair_stack_misses_nothing_and_an_unfair_one_is_found():
    assert held(1.2, 1.2) == []
    assert held(1.5) == ["tenants_ttft_p99_ratio"]
    assert held(urgent=1.5) == ["tenants_ttft_p99_ratio_priority"]
    assert held(end=End.TIMEOUT) == ["tenants_other_failed"]
    assert "tenants_other_failed" in held(unended=1)


def test_a_flood_that_is_urgent_says_so_in_every_way():
    ask = tenants.flooding(1, urgent=True)
    assert ask.body["priority"] == -9
    assert ask.headers == {"X-Vllm-Priority": "-9"}
    assert "priority" not in tenants.flooding(1, urgent=False).body


# -- soak


def soaked(growth: float = 0.0, **changed: Any) -> list[str]:
    at = [float(second) for second in range(0, 600, 5)]
    rss = [int((500 + (100 if second < 100 else 0) + growth * second / 60) * MIB) for second in at]
    early = [float(second) for second in range(0, 230, 5)]
    warming_up = soak.Grown("warms up and ends", early, [int(second * MIB) for second in early])
    short_lived = soak.Grown("worker", [300.0, 310.0], [0, 100 * MIB])
    made = soak.Soak(
        600.0,
        {1: soak.Grown("engine", at, rss), 2: short_lived, 3: warming_up},
        [MIB // 2],
        [answer(), REFUSAL],
        [""],
        [answer()],
        5.0,
    )
    return missed("soak", soak.evaluate(made._replace(**changed)))


@pytest.mark.parametrize(
    ("changed", "figures"),
    [
        ({}, []),
        ({"growth": 0.8}, []),
        ({"growth": 1.5}, ["soak_rss_mb_per_minute"]),
        ({"memory": {}}, ["soak_rss_mb_per_minute"]),
        ({"metrics_bytes": [MIB // 2, 2 * MIB]}, ["soak_metrics_mb"]),
        ({"changes": ["", "submit chaos-1: timed out"]}, ["soak_changes_failed"]),
        ({"outcomes": [answer(end=End.CUT)]}, ["soak_failed"]),
        ({"last": [answer(), answer(end=End.CUT)]}, ["soak_sigterm_dropped"]),
    ],
)
def test_a_soak_is_held_to_its_aims(changed: dict[str, Any], figures: list[str]):
    assert soaked(**changed) == figures


# -- disk

FINE = disk.Step("full disk", 0, [], status=507)


@pytest.mark.parametrize(
    ("step", "restarted", "figures"),
    [
        (FINE, True, []),
        (FINE, False, ["disk_not_restarted"]),
        (FINE._replace(lost=["a"]), True, ["disk_lost"]),
        (FINE._replace(gained=["a"]), True, ["disk_gained"]),
        (FINE._replace(failed_reads=1), True, ["disk_failed_reads"]),
        (FINE._replace(status=500, is_honest=False), True, ["disk_wrong_answers"]),
    ],
)
def test_a_bad_disk_is_held_to_its_aims(step: disk.Step, restarted: bool, figures: list[str]):
    assert missed("disk", disk.evaluate([FINE, step], restarted, "tmpfs")) == figures


# -- arithmetic


def test_a_ratio_of_percentiles_has_an_interval_and_is_no_number_without_values():
    ratio, (low, high) = p99_ratio([2.0] * 50, [1.0] * 50)
    assert (ratio, low, high) == (2.0, 2.0, 2.0)
    assert p99_ratio([], [1.0])[0] != p99_ratio([], [1.0])[0]


def test_a_slope_is_per_minute_and_not_moved_by_few_outliers():
    at = [float(second) for second in range(0, 600, 10)]
    values = [5 + second / 30 for second in at]
    values[7] = 900.0
    assert slope_per_minute(at, values) == pytest.approx(2.0, abs=0.05)
    assert slope_per_minute([1.0], [5.0]) == 0


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("ray::ServeReplica:learnware:engine", "ServeReplica:learnware:engine"),
        ("/home/me/.venv/bin/python -u /home/me/here/tool.py --x", "python -u tool.py --x"),
        ("/opt/haproxy -f /tmp/x/haproxy.cfg", "haproxy"),
    ],
)
def test_a_process_is_named_without_folders_of_the_machine(line: str, role: str) -> None:
    assert soak.role_in(line) == role

"""On a real engine on CPU, with the scheduler and the worker that serve: answers, counts, tables and order."""

from pathlib import Path
from typing import Any

import pytest

from serving.paging.caller_params import PRIORITY_HEAD_START
from serving.paging.settings import PagingSettings
from tests.serving.random_adapters import ATTENTION, MLP, differences, engine_arguments, run_engine, write_adapter

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SLOTS = 3
PINNED = "pinned"
ADAPTERS = {PINNED: (4, ATTENTION), "b": (4, MLP), "c": (8, ATTENTION), "d": (4, ATTENTION), "e": (16, MLP)}
PROMPTS = ("The capital of France is", "Once upon a time there was a small", "def add(a, b):\n    return")
ROWS = [
    (PROMPTS[number % len(PROMPTS)], name)
    for number, name in enumerate((PINNED, "b", None, "c", "d", "e", "b", PINNED, None, "c", "e", "d"))
]
CLIENTS, LIMIT = 2, 60
SEATS, MANY = 16, 60
"""Requests that the engine runs at once (`engine_arguments`), and of one tenant, many more."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One engine for the module (about 35 s to start), with one slot pinned and two for the others."""
    folder = tmp_path_factory.mktemp("paged")
    adapters = {
        name: write_adapter(folder / name, rank, modules, seed)
        for seed, (name, (rank, modules)) in enumerate(ADAPTERS.items())
    }
    settings = PagingSettings(patience_s=0.0, host_bytes=256 << 20, pinned=[PINNED])
    order = {
        "engine": engine_arguments(
            SLOTS,
            distributed_executor_backend="mp",  # as in a server's engine core
            scheduler_cls="serving.paging.scheduler.PagedScheduler",
            scheduling_policy="priority",
            additional_config=settings.as_config(),
        ),
        "adapters": adapters,
        "pinned": PINNED,
        "broken": write_adapter(folder / "broken", 4, ATTENTION, 100, first_layer=30),
        "rows": ROWS,
        "clients": CLIENTS,
        "limit": LIMIT,
        "many": MANY,
        "seats": SEATS,
    }
    return run_engine(Path(__file__).with_name("paged_engine.py"), folder, order)


def test_the_process_that_schedules_naps_while_its_worker_computes(result):
    assert result["readers"] == ["NappingCondition"]


def test_each_request_is_answered_as_if_alone(result):
    wrong = {
        f"{adapter or 'base'}: {prompt[:20]}": found
        for (prompt, adapter), mixed, alone in zip(ROWS, result["mixed"]["answers"], result["alone"], strict=True)
        if (found := differences(mixed, alone))
    }
    assert not wrong


def test_the_reports_agree_with_the_engines_own_tables_after_every_step(result):
    agree = result["mixed"]["agree"]
    assert len(agree) >= len(ROWS) / 2
    assert all(reported for reported, _ in agree)
    assert all(believed for _, believed in agree), "the scheduler believes in other residents"


def test_loads_are_what_batches_needed_and_no_step_reads_a_disk(result):
    mixed = result["mixed"]
    assert mixed["loads"] == mixed["needed"] > len(ADAPTERS) - SLOTS
    assert mixed["disk_reads_in_step"] == 0


def test_aborted_requests_leave_the_queue_and_the_others_are_answered(result):
    others = [name for name in ADAPTERS if name != PINNED]
    assert result["aborted"] == sorted(f"abort-{number}" for number in range(1, 2 * len(others), 2))


def test_a_request_runs_first_if_its_key_grants_the_priority_that_it_asks_for(result):
    granted, plain = result["prioritised"], result["not_granted"]
    assert granted["order"][0] == "granted-urgent"
    assert plain["order"][0] != "plain-urgent"
    assert len(granted["order"]) == len(plain["order"]) == len(ADAPTERS)


def test_tenant_weight_head_start_and_salt_reach_the_scheduler_and_no_priority_does(result):
    assert result["prioritised"]["known"] == ["granted", 2.0, 2 * PRIORITY_HEAD_START, "granted", 0]
    assert result["not_granted"]["known"] == ["plain", 1.0, 0.0, "plain", 0]


def test_a_tenants_request_passes_those_of_another_that_sent_many(result):
    assert result["shared"]["later"] >= MANY - 2 * SEATS  # those that ran already, and those that began with it
    assert result["shared"]["left"] == 0


def test_idle_work_gives_its_place_to_requests_at_once_and_goes_on_as_if_alone_when_they_are_done(result):
    idle = result["idle"]
    assert (idle["preempted"], idle["waits"]) == (1, True)
    assert idle["begun"] == idle["running"] >= 2
    assert idle["ended_before"] >= SEATS
    alone, again = idle["answers"]
    assert len(again["tokens"]) == 12
    assert not differences(again, alone)
    assert idle["left"] == [0, 0]


def test_a_forced_token_has_the_log_probability_and_the_rank_that_it_has_among_all(result):
    forced = result["forced"]
    assert len(forced) == 5
    for listed, alone, rank, alone_rank in forced:
        assert alone == pytest.approx(listed, abs=1e-3)
        assert alone_rank == rank
    assert sorted(rank for *_, rank in forced) == [1, 2, 3, 4, 5]
    assert min(listed for listed, *_ in forced) < -1e-3


def test_a_cold_adapter_begins_beside_busy_ones(result):
    """All slots that are not pinned have adapters with requests always waiting. Without patience the cold one ages out
    at once, one adapter drains, and the cold one begins when the longest request of it has ended."""
    busy = result["busy"]
    assert busy["steps_until_cold"] is not None, f"it did not begin in {LIMIT} steps"
    assert busy["steps_until_cold"] <= 2 * busy["longest"] + 2
    assert busy["waiting"] == 0


def test_a_pinned_adapter_keeps_its_slot(result):
    assert result["pinned_keeps_its_slot"]


def test_an_adapter_that_matches_no_layer_fails_its_own_request_with_the_reason(result):
    assert "120 of the adapter's 120 modules match no layer" in result["broken"]["reason"]
    assert "'broken@1'" in result["broken"]["reason"]
    assert result["broken"]["beside"] == 3


def test_a_removed_adapter_leaves_its_slot_host_memory_and_the_schedulers_table(result):
    assert result["removed"]["before"] == [True, True, True]
    assert result["removed"]["after"] == [False, False, False]
    assert result["removed"]["agree"] == [True, True]

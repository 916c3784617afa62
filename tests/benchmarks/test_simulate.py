"""The simulator: every request ends once, loads are what the policies make of them, and its fit finds known costs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from benchmarks.paging.measure import REQUESTS, PagingCell
from benchmarks.simulate.check import SIDES, check, simulate
from benchmarks.simulate.cluster import Cluster, at_random, by_placement
from benchmarks.simulate.costs import H100, WEIGHT_BYTES, Linear, Work, adapter_bytes, slot_bytes
from benchmarks.simulate.engine import Engine, OurQueue, Shape
from benchmarks.simulate.job import Job
from benchmarks.simulate.stock_policies import StockQueue, StockSlots
from benchmarks.simulate.study import CHAT, kv_tokens, make_jobs, scale, shape_of, wanted_slots
from router.placement import Placement, PlacementSettings

COSTS = Linear(per_step=0.05, per_row=0.004, per_prefilled=0.002, per_adapter=0.003, per_load=0.01)
SMALL = Shape(slots=3, seats=5, step_tokens=64, kv_tokens=400, host_bytes=4, adapter_bytes=1)

jobs_drawn = st.lists(
    st.tuples(st.floats(0, 2), st.one_of(st.none(), st.integers(0, 7)), st.integers(1, 150), st.integers(1, 30)),
    min_size=1,
    max_size=40,
)


def jobs_of(drawn) -> list[Job]:
    at = np.cumsum([gap for gap, *_ in drawn])
    return [Job(i, adapter, float(at[i]), prompt, output) for i, (_, adapter, prompt, output) in enumerate(drawn)]


@given(jobs_drawn, st.sampled_from(["ours", "stock"]), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_every_request_ends_once_with_all_its_tokens_and_room_is_given_back(drawn, side, replicas):
    jobs = jobs_of(drawn)

    def engine() -> Engine:
        policies = (StockQueue(SMALL.slots), StockSlots(SMALL.slots)) if side == "stock" else (None, None)
        return Engine(SMALL, COSTS, *policies)

    engines = {f"r{number}": engine() for number in range(replicas)}
    Cluster(engines, by_placement(Placement(0.0, PlacementSettings()))).run(jobs)
    for job in jobs:
        assert job.ends == 1
        assert job.decoded == job.output
        assert job.prefilled == job.prompt
        assert job.arrival < job.first <= job.finished
    totals = [one.totals for one in engines.values()]
    assert sum(one.prefilled for one in totals) == sum(job.prompt for job in jobs)
    # a prompt's last part gives the first token
    assert sum(one.decoded for one in totals) == sum(job.output - 1 for job in jobs)
    for one in engines.values():
        assert one.load == 0
        assert not one.host.leased
        one.host.check_integrity()


@given(jobs_drawn, st.sampled_from([True, False]))
@settings(max_examples=100, deadline=None)
def test_loads_are_at_least_the_distinct_adapters_and_ours_are_never_more_than_needed(drawn, ours):
    jobs = jobs_of(drawn)
    policies = (None, None) if ours else (StockQueue(SMALL.slots), StockSlots(SMALL.slots))
    engine = Engine(SMALL, COSTS, *policies)
    Cluster({"0": engine}, at_random()).run(jobs)
    distinct = len({job.adapter for job in jobs} - {None})
    assert engine.totals.loads >= engine.totals.needed >= distinct
    assert engine.totals.reads >= distinct
    if ours:
        assert engine.totals.loads == engine.totals.needed


def test_stock_order_loads_more_than_a_batch_needs():
    """100 adapters by Zipf's law, 8 slots, 128 requests: on the real engine stock loads 111 where 62 are needed."""
    shape = replace(SMALL, slots=8, seats=16, kv_tokens=10_000, host_bytes=100)
    jobs = make_jobs(CHAT._replace(prompt=(10, 40), output=(2, 40)), 128, 100, rate=60.0)
    engine = Engine(shape, COSTS, StockQueue(8), StockSlots(8))
    engine.hold(range(100))
    Cluster({"0": engine}, at_random()).run(jobs)
    assert 1.3 < engine.totals.loads / engine.totals.needed < 2.5
    again = Engine(shape, COSTS, OurQueue(8))
    again.hold(range(100))
    Cluster({"0": again}, at_random()).run(make_jobs(CHAT._replace(prompt=(10, 40), output=(2, 40)), 128, 100, 60.0))
    assert again.totals.loads == again.totals.needed < 0.6 * engine.totals.loads


def test_a_request_to_an_adapter_on_disk_waits_for_the_read_and_no_other_does():
    costs = replace(COSTS, per_read=10.0)
    engine = Engine(SMALL, costs)
    engine.hold([1])
    cold, warm = Job(0, 2, 0.0, 10, 3), Job(1, 1, 0.0, 10, 3)
    Cluster({"0": engine}, at_random()).run([cold, warm])
    assert cold.first > 10.0
    assert warm.finished < 1.0
    assert engine.totals.reads == 1


def test_a_request_that_can_never_fit_is_refused():
    with pytest.raises(ValueError, match="500 tokens; 400 fit"):
        Engine(SMALL, COSTS).arrive(Job(0, None, 0.0, 400, 100), 0.0)


@pytest.mark.slow
def test_affinity_reads_and_loads_less_than_a_random_replica():
    ours, random_ = (scale(4, 1000, affinity=affinity, seconds=3.0) for affinity in (True, False))
    assert ours["loads_per_request"] < 0.8 * random_["loads_per_request"]
    assert ours["reads_per_request"] < 0.8 * random_["reads_per_request"]


# -- costs


def test_the_h100s_numbers_are_those_of_the_shipped_configuration():
    """`deploy/h100-8b.yaml` derives them in its comments."""
    assert round(WEIGHT_BYTES / 2**30, 2) == 15.26
    assert round(48 * slot_bytes(32) / 2**30, 1) == 8.7
    assert round(adapter_bytes(32) / 2**20, 1) == 166.5
    assert abs(kv_tokens(48, 32) - 307_300) < 1000


def test_a_decode_step_for_one_request_is_bound_by_memory_and_a_prefill_by_computing():
    costs = H100(rank=32)
    one = costs.step(Work(decoded=1, prefilled=0, context=100, adapters=0, loads=0))
    assert 0.005 < one < 0.009
    assert costs.step(Work(0, 4096, 0, 0, 0)) > 10 * one
    assert replace(costs, hbm_share=1.0).step(Work(1, 0, 100, 0, 0)) < one
    loading = Work(1, 0, 100, 1, 1)
    assert replace(costs, overlapped=True).step(loading) < costs.step(loading)


def test_the_fewest_slots_near_the_best_are_wanted():
    assert wanted_slots({8: 1.0, 32: 9.6, 48: 9.9, 100: 10.0}) == 32


def test_a_slot_more_leaves_less_room_for_keys_and_values():
    assert shape_of(16).kv_tokens > shape_of(100).kv_tokens > 0


# -- against a measurement


def measurement(costs: Linear, noise: float) -> dict:
    """What `benchmarks.paging` would write if an engine had these costs."""
    generator = np.random.default_rng(0)
    cells = {}
    for slots in (4, 8):
        for alpha in (0.3, 1.0):
            cell = PagingCell(100, slots, alpha, 1.0, 100)
            rounds = {
                side: [
                    {
                        "throughput": run.throughput * (slow := 1 + noise * generator.uniform(-1, 1)),
                        "requests_per_s": REQUESTS / run.seconds * slow,
                        "loads": run.loads,
                    }
                    for run in simulate(cell, side, 2, REQUESTS, costs)
                ]
                for side in SIDES
            }
            cells[cell.name] = {"cell": cell._asdict(), "rounds": rounds}
    return {"setup": {"requests": REQUESTS}, "details": {"cells": cells}}


@pytest.mark.slow
def test_costs_that_are_known_are_found_again(tmp_path, capsys):
    file = tmp_path / "paging.json"
    file.write_text(json.dumps(measurement(COSTS, noise=0.05)))
    figures, details = check(file)
    assert figures["prediction_error_percent"] < 8
    assert len(details["cells"]) == 8
    assert "n100-s8-a1-cv1-h100 stock" in capsys.readouterr().out


def test_too_few_cells_cannot_be_split(tmp_path):
    file = tmp_path / "paging.json"
    file.write_text(json.dumps({"setup": {}, "details": {"cells": {}}}))
    with pytest.raises(ValueError, match="at least four are needed"):
        check(file)

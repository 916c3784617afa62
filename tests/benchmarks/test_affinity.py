"""What `benchmarks.affinity` reads from `/metrics`, and the market that its score is taken on."""

import numpy as np
import pytest

from benchmarks.affinity import SLOTS, another, by_replica, measure_score, metric, random_states
from benchmarks.common.tasks import STARTER_LEARNWARES, data_folder
from router.placement import DEVICE, HOST
from specs.learnware import load_learnwares

METRICS = """\
# HELP learnware_adapter_loads_total Adapters brought into a tier.
learnware_adapter_loads_total{deployment="engine",replica="abc",tier="device"} 7.0
learnware_adapter_loads_total{deployment="engine",replica="abc",tier="host"} 100.0
learnware_adapter_loads_total{deployment="engine",replica="xyz",tier="device"} 5.0
learnware_adapter_loads_created{deployment="engine",replica="xyz",tier="device"} 1.7e9
"""


def test_a_metric_is_summed_over_the_samples_with_the_labels():
    assert metric(METRICS, "learnware_adapter_loads_total", tier="device") == 12
    assert metric(METRICS, "learnware_adapter_loads_total", tier="device", replica="xyz") == 5
    assert metric(METRICS, "learnware_other_total") == 0
    assert by_replica(METRICS, "learnware_adapter_loads_total") == [107, 5]


def test_a_further_learnware_of_a_task_is_specified_by_a_part_of_the_points():
    starter = load_learnwares(STARTER_LEARNWARES)[0]
    other = another(starter, 3, np.random.default_rng(0))
    whole, part = starter.specification.whole_set.points, other.specification.whole_set.points
    assert other.id == f"{starter.id}.3"
    assert len(part) == int(0.6 * len(whole))
    assert {tuple(point) for point in part} <= {tuple(point) for point in whole}
    assert other.specification.whole_set.weights.sum() == pytest.approx(1)


def test_random_states_fill_the_slots_of_both_replicas():
    states = random_states([f"adapter-{number}" for number in range(40)], np.random.default_rng(0))
    for state in states.values():
        tiers = list(state.adapters.values())
        assert tiers.count(DEVICE) == tiers.count(HOST) == SLOTS


@pytest.mark.slow
def test_no_more_quality_is_given_up_than_the_margin_allows(monkeypatch: pytest.MonkeyPatch):
    data = data_folder()
    if data is None:
        pytest.skip("needs the tasks' rows (LEARNWARE_DATA)")
    monkeypatch.setattr("benchmarks.affinity.ROWS", 8)
    monkeypatch.setattr("benchmarks.affinity.STATES", 5)
    figures, details = measure_score(STARTER_LEARNWARES, data)
    assert 0 < figures["affinity_quality_loss_max"] <= figures["resident_margin"]
    assert figures["affinity_score_loss"] <= figures["resident_margin"]
    assert details["stood_in"] > 0.02

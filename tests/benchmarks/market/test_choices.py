"""What the market's table is made of, on small known cases."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.scores import BASE, TaskScores
from benchmarks.common.statistics import picks_of
from benchmarks.market.choices import (
    Columns,
    MarketScores,
    MeasuredMarket,
    Offered,
    best_single,
    by_halves,
    cell,
    in_hindsight,
    make_market,
    probe_score,
    resampled,
)
from benchmarks.market.figures import (
    beats_base,
    beats_best_single,
    calibration,
    calibration_noise,
    figures,
    means,
    recovery,
    tables,
)
from specs.capability import Capability


def scores(rights: dict[str, str]) -> TaskScores:
    right = {name: np.array([bit == "1" for bit in bits]) for name, bits in rights.items()}
    gold = {name: np.where(bits, -0.1, -2.0) for name, bits in right.items()}
    among = {name: np.where(bits, 0.9, 0.2) for name, bits in right.items()}
    return TaskScores(list(range(len(next(iter(right.values()))))), right, gold, among)


@dataclass(frozen=True)
class Named:
    """What resampling needs of a learnware."""

    id: str
    domain: str = "d"
    base_model: str = "b"
    capability: Capability | None = field(default=None, compare=False)


def test_the_best_is_chosen_on_one_half_and_scored_on_the_other() -> None:
    # On even rows a is best (11), on odd rows b (11): each is scored where it was not chosen.
    task = scores({"a": "1000", "b": "0101", BASE: "0000"})
    assert list(by_halves(task, ["a", "b", BASE], "right")) == [0, 0, 0, 0]
    steady = scores({"a": "1110", "b": "0000", BASE: "0001"})
    assert by_halves(steady, ["a", "b", BASE], "right").mean() == 0.75
    assert in_hindsight(task, ["a", "b", BASE], "right").mean() == 0.5


def test_of_equals_the_likelier_one_is_the_oracle() -> None:
    task = scores({"a": "1010", "b": "1111", BASE: "0000"})
    task.gold["a"][:], task.gold["b"][:] = -1.0, -0.5
    assert list(by_halves(task, ["a", "b", BASE], "right")) == [1, 1, 1, 1]


def test_the_best_single_learnware_is_one_for_the_whole_domain() -> None:
    matrix = {
        "d-x": scores({"d-a": "1111", "d-b": "1010", BASE: "0000"}),
        "d-y": scores({"d-a": "0000", "d-b": "1111", BASE: "0000"}),
    }
    market = MeasuredMarket([], matrix, matrix, {"d-x": "d", "d-y": "d"})
    single = best_single(market, "d", ["d-a", "d-b"], "right")
    # by even rows d-b (1 and 1) beats d-a (1 and 0); by odd rows they tie at one half and d-a comes first
    assert list(single["d-x"]) == [1, 0, 1, 0]
    assert list(single["d-y"]) == [0, 1, 0, 1]


def test_recovery_is_one_for_the_oracle_and_nothing_for_chance() -> None:
    rows = 400
    generator = np.random.default_rng(0)
    oracle = (generator.random(rows) < 0.9).astype(float)
    table = {"base": np.zeros(rows), "random": np.full(rows, 0.5), "oracle": oracle, "chosen": oracle}
    gold = {name: values - 1 for name, values in table.items()}
    found = recovery([Columns(table, gold)] * 3, "chosen")
    assert found.value == pytest.approx(1.0)
    assert found.score == "accuracy"
    nothing = recovery([Columns(table | {"chosen": table["random"]}, gold)] * 3, "chosen")
    assert nothing.value == pytest.approx(0.0)
    half = recovery([Columns(table | {"chosen": (oracle + 0.5) / 2}, gold)] * 3, "chosen")
    assert half.value == pytest.approx(0.5)
    assert half.interval[0] <= half.value <= half.interval[1]


def test_likelihood_speaks_where_accuracy_is_at_chance() -> None:
    rows = 60
    flat = {name: np.tile([0.0, 1.0], rows // 2) for name in ("base", "random", "oracle", "chosen")}
    gold = {"base": np.full(rows, -3.0), "random": np.full(rows, -2.0), "oracle": np.full(rows, -1.0)}
    found = recovery([Columns(flat, gold | {"chosen": np.full(rows, -1.25)})], "chosen")
    assert (found.score, found.value) == ("likelihood", pytest.approx(0.75))
    assert found.likelihood == found.value


def test_calibration_error_is_nothing_when_what_is_stated_comes_true() -> None:
    stated = [(share, i % 10 < round(10 * share)) for share in (0.2, 0.8) for i in range(1000)]
    assert calibration(stated)[0] < 0.05
    certain = [(1.0, True)] * 50
    assert calibration(certain)[0] == 0.0
    wrong = [(0.9, False)] * 50
    assert calibration(wrong)[0] == pytest.approx(0.9)


def test_a_cell_that_was_not_measured_counts_as_the_worst() -> None:
    task = scores({"d-a": "1111", "d-b": "1000", BASE: "0000"})
    assert cell(task, "d-a", ["d-a", "d-b"])[2]
    right, _, known = cell(task, "other-c", ["d-a", "d-b"])
    assert (list(right), known) == ([1, 0, 0, 0], False)


def test_probe_scores_are_means_over_the_rows() -> None:
    probe = probe_score(scores({"d-a": "1101", BASE: "0110"}), "d-a")
    assert (probe.rows, probe.accuracy, probe.base_accuracy, probe.at_least_base) == (4, 0.75, 0.5, 0.75)
    assert probe.probability == pytest.approx((3 * 0.9 + 0.2) / 4)


def test_tasks_without_all_cells_of_their_domain_are_left_out() -> None:
    whole = {"finance-x": scores({"finance-a": "1", BASE: "0"}), "finance-y": scores({BASE: "0"})}

    measured, new = Named("finance-a", "finance"), Named("finance-b", "finance")
    market = make_market([measured, new], whole, whole)  # type: ignore[list-item]
    assert list(market.matrix) == ["finance-x"]
    assert [one.id for one in market.learnwares] == ["finance-a"]


def small_market() -> MeasuredMarket:
    rights = {"d-a": "11110000", "d-b": "00001111", BASE: "00000001"}
    tasks = {"d-x": scores(rights), "d-y": scores(rights)}
    return MeasuredMarket([Named("d-a"), Named("d-b")], tasks, tasks, {"d-x": "d", "d-y": "d"})  # type: ignore[list-item]


def test_a_larger_market_has_copies_and_a_smaller_one_is_a_part() -> None:
    market = small_market()
    larger = resampled(market, 5)
    assert [name for _, name in larger] == ["d-a", "d-b", "d-a", "d-b", "d-a"]
    assert len({one.id for one, _ in larger}) == 5
    assert all(one.capability is not None and set(one.capability.probes) == {"d-x", "d-y"} for one, _ in larger[2:])
    drawn = {resampled(market, 1, seed)[0][1] for seed in range(20)}
    assert drawn == {"d-a", "d-b"}


def measured(routed: str) -> MarketScores:
    """Two tasks whose choice per request answers these rows right."""
    bits = np.array([float(bit) for bit in routed])
    right = {
        "base": np.tile([0.0, 0.0, 0.0, 1.0], 2),
        "random": np.full(8, 0.25),
        "best single": np.tile([0.0, 1.0], 4),
        "oracle": np.tile([1.0, 1.0, 1.0, 0.0], 2),
        "in hindsight": np.ones(8),
        "per task": bits,
        "per request": bits,
    }
    one = Columns(right, {name: values - 1 for name, values in right.items()})
    both = {"d-x": one, "d-y": one}
    wordings = {task: dict.fromkeys(("whole", "bare", "helper", "exam", "plain"), bits) for task in both}
    return MarketScores(both, both, wordings, [(0.9, True)] * 18 + [(0.9, False)] * 2, 0, ())


def test_means_over_tasks_count_every_task_alike() -> None:
    drawn = means([np.zeros(4), np.ones(100)], picks_of([4, 100]))
    assert list(np.unique(drawn)) == [0.5]
    noisy = means([np.tile([0.0, 1.0], 50)], picks_of([100]))
    assert noisy[0] == 0.5
    assert 0.04 < noisy[1:].std() < 0.06


def test_the_table_says_where_the_base_is_not_beaten() -> None:
    market = small_market()
    good, bad = measured("11110111"), measured("00000001")
    assert [one["routed"] > one["base"] for one in beats_base(good).values()] == [True, True]
    assert beats_best_single(market, good)["d"]["low"] > 0
    single = beats_best_single(market, bad)["d"]
    assert single["difference"] == pytest.approx(1 / 8 - 1 / 2)
    at = {
        1000: Offered(
            {t: c.right["per request"] for t, c in good.columns.items()}, {t: np.ones(8) for t in good.columns}
        )
    }
    found = figures(market, bad, at)
    assert found.flat["score_vs_oracle_n1000"] == pytest.approx(7 / 8)
    assert found.flat["score_vs_oracle_n100"] == pytest.approx((1 / 8) / (3 / 4))
    assert found.intervals["score_vs_oracle_n100"][0] <= found.flat["score_vs_oracle_n100"]
    assert (found.flat["beats_base_tasks"], found.flat["beats_best_single_domains"]) == (0.0, 0.0)
    text = tables(market, bad, found)
    assert "Not better than the base model, where some learnware is: d-x, d-y" in text
    assert "by likelihood" in text


def test_calibration_of_exact_probabilities_has_the_error_of_few_rows() -> None:
    generator = np.random.default_rng(1)
    few, many = ([(float(p), bool(generator.random() < p)) for p in generator.uniform(0.5, 1, n)] for n in (100, 10000))
    assert calibration_noise(few) > 4 * calibration_noise(many) > 0


@pytest.mark.slow
def test_plots_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.market.plots import write_plots

    market, found = small_market(), measured("11110111")
    offered = Offered({t: np.ones(8) for t in found.columns}, {t: np.ones(8) for t in found.columns})
    written = write_plots(tmp_path, market, found, {10: offered, 1000: offered})
    assert [path.name for path in written] == ["scores.svg", "regret.svg", "calibration.svg"]
    assert all(b"</svg>" in path.read_bytes() for path in written)

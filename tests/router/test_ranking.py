"""Which learnware is expected to answer best: measurements count where they were taken, by how near the tasks are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.choice import BASE_BETTER
from router.ranking import ELSEWHERE, LIKELIHOOD_WEIGHT, REQUEST_TAIL, TASK_TAIL, Ranking, gain
from router.selection import Selector
from router.settings import SelectionSettings
from specs.capability import Capability, ProbeScore
from specs.encoder import STATIC_ENCODER, load_encoder
from specs.index import Closeness
from specs.learnware import Learnware, load_learnwares

ROOT = Path(__file__).parents[2]


def probe(
    probability: float, base: float = 0.3, rows: int = 96, at_least_base: float = 0.9, likelihood: float = -1.0
) -> ProbeScore:
    return ProbeScore(rows, probability, probability, likelihood, at_least_base, base, base, -2.0)


def learnware(name: str, tasks: tuple[str, ...], **probes: ProbeScore) -> Learnware:
    one = load_learnwares(ROOT / "serving" / "starter_learnwares")[0]
    scores = {f"d-{task}": score for task, score in probes.items()}
    capability = Capability("base", "0", "p", scores) if probes else None
    return replace(one, id=name, domain="d", tasks=tasks, capability=capability)


def near(**values: float) -> Closeness:
    """By the position of the learnware: o0=-1 → learnware 0 at closeness -1."""
    return Closeness(np.array([int(name[1:]) for name in values]), np.array(list(values.values())))


def test_the_better_one_of_two_that_look_alike_is_expected_to_be_better() -> None:
    ranking = Ranking([learnware("good", ("x",), x=probe(0.9)), learnware("bad", ("x",), x=probe(0.2))])
    expected = ranking.expect(near(o0=-2.0, o1=-1.0), REQUEST_TAIL)
    assert expected.quality[0] > expected.quality[1]
    assert expected.tasks.sum() == pytest.approx(1.0)


def test_measurements_count_by_how_near_their_task_is() -> None:
    ranking = Ranking(
        [
            learnware("x", ("x",), x=probe(0.9), y=probe(0.1)),
            learnware("y", ("y",), x=probe(0.1), y=probe(0.9)),
        ]
    )
    assert int(ranking.expect(near(o0=-1.0, o1=-30.0), REQUEST_TAIL).quality.argmax()) == 0
    assert int(ranking.expect(near(o0=-30.0, o1=-1.0), REQUEST_TAIL).quality.argmax()) == 1
    middle = ranking.expect(near(o0=-5.0, o1=-5.0), REQUEST_TAIL)
    assert middle.quality[0] == pytest.approx(middle.quality[1])


def test_few_rows_say_little() -> None:
    level = -2.0  # in likelihood with the base model
    assert gain(probe(0.9, rows=4, likelihood=level)) == pytest.approx(0.3)
    assert gain(probe(0.9, rows=996, likelihood=level)) == pytest.approx(0.6, abs=0.01)


def test_likelihood_tells_apart_what_probability_does_not() -> None:
    likelier = learnware("likelier", ("x",), x=probe(0.3, likelihood=-1.0))
    ranking = Ranking([learnware("a", ("x",), x=probe(0.3, likelihood=-1.5)), likelier])
    best = ranking.best(near(o0=-1.0, o1=-1.0), 2)
    assert list(best.owners) == [1, 0]
    assert best.qualities[0] - best.qualities[1] == pytest.approx(LIKELIHOOD_WEIGHT * 0.5 * 96 / 100)
    # the base model's likelihood counts like everybody's: here it is -2
    assert best.qualities[0] - best.base == pytest.approx(LIKELIHOOD_WEIGHT * 1.0 * 96 / 100)


def test_far_from_all_tasks_each_counts_a_little_and_of_a_whole_task_sooner() -> None:
    ranking = Ranking([learnware(name, (name,), **{name: probe(0.5)}) for name in ("x", "y")])
    for tail in (REQUEST_TAIL, TASK_TAIL):
        home = ranking.expect(near(o0=-1.0, o1=-120.0), tail).tasks
        assert home[0] > 0.99
    far = near(o0=-300.0, o1=-360.0)
    of_request, of_task = ranking.expect(far, REQUEST_TAIL).tasks[0], ranking.expect(far, TASK_TAIL).tasks[0]
    assert 0.5 < of_task < 0.6
    assert 0.9 < of_request < 0.99


def test_who_was_not_measured_counts_as_usual_at_home_and_less_than_the_base_elsewhere() -> None:
    ranking = Ranking(
        [
            learnware("measured", ("x",), x=probe(0.7)),
            learnware("new", ("x",)),
            learnware("other", ("y",), y=probe(0.5)),
        ]
    )
    usual = (gain(probe(0.7)) + gain(probe(0.5))) / 2
    at_home = ranking.expect(near(o0=0.0, o2=-1e9), REQUEST_TAIL).quality
    elsewhere = ranking.expect(near(o0=-1e9, o2=0.0), REQUEST_TAIL).quality
    assert at_home[1] == pytest.approx(0.3 + usual)
    assert elsewhere[1] == pytest.approx(0.3 - ELSEWHERE)


def test_a_market_without_measurements_says_so() -> None:
    ranking = Ranking([learnware("a", ("x",)), learnware("b", ("y", "z"))])
    assert not ranking.any_measured
    assert ranking.tasks == ("d-x", "d-y", "d-z")
    # only the learnware of two tasks is near: all tasks are as likely
    assert list(ranking.expect(near(o1=-1.0), REQUEST_TAIL).tasks) == pytest.approx([1 / 3] * 3)


def test_the_probability_to_do_as_well_as_the_base_is_what_was_counted() -> None:
    ranking = Ranking([learnware("a", ("x",), x=probe(0.9, rows=91, at_least_base=1.0))])
    assert ranking.at_least_base(0, np.array([1.0])) == pytest.approx(0.99)


def test_among_equals_the_nearer_one_comes_first() -> None:
    equal = [learnware(name, ("x",), x=probe(0.8)) for name in ("a", "b", "c")]
    ranking = Ranking([*equal, learnware("worse", ("x",), x=probe(0.4))])
    best = ranking.best(near(o0=-3.0, o1=-1.0, o2=-2.0, o3=-0.5), 2)
    assert list(best.owners) == [1, 2]
    assert best.qualities[0] == best.qualities[1]


def test_a_changed_table_is_that_of_a_new_one() -> None:
    one, two = learnware("a", ("x",), x=probe(0.9), y=probe(0.2)), learnware("b", ("y",), y=probe(0.9))
    gone, late = learnware("c", ("x",), x=probe(0.5)), learnware("d", ("w",), w=probe(0.6), x=probe(0.4))
    changed = Ranking([one, gone, two]).changed([late], [1])
    new = Ranking([one, two, late])
    assert set(changed.tasks) == set(new.tasks)
    first, second = near(o0=-4.0, o2=-1.0, o3=-2.0), near(o0=-4.0, o1=-1.0, o2=-2.0)
    assert changed.expect(first, REQUEST_TAIL).quality[[0, 2, 3]] == pytest.approx(
        new.expect(second, REQUEST_TAIL).quality
    )
    best, expected = changed.best(first, 9), new.best(second, 9)
    assert [[0, None, 1, 2][number] for number in best.owners] == list(expected.owners)
    assert best.at_least_base == pytest.approx(expected.at_least_base)
    assert best.base == pytest.approx(expected.base)


def test_a_selector_over_measured_learnwares_picks_the_better_twin() -> None:
    starters = load_learnwares(ROOT / "serving" / "starter_learnwares")
    tfns = next(one for one in starters if one.id == "finance-tfns")
    others = [one for one in starters if one.id != "finance-tfns"]

    def twin(name: str, probability: float, at_least_base: float, likelihood: float = -1.0) -> Learnware:
        score = probe(probability, at_least_base=at_least_base, likelihood=likelihood)
        return replace(tfns, id=name, capability=Capability(tfns.base_model, "0", "p", {"finance-tfns": score}))

    text = "Is the sentiment of this tweet about the markets bullish or bearish? $MSFT announces $60 billion buyback"
    for good, bad in (("a", "z"), ("z", "a")):
        learnwares = [*others, twin(good, 0.9, 0.99), twin(bad, 0.1, 0.5)]
        choice = Selector(learnwares, load_encoder(STATIC_ENCODER), SelectionSettings()).choose(text, top=20)
        assert choice.learnware_id == good
        assert choice.candidates[0].quality == 1.0
        assert next(one for one in choice.candidates if one.learnware_id == bad).quality < 0.6
    hopeless = [*others, twin("a", 0.1, 0.0, likelihood=-3.0)]
    choice = Selector(hopeless, load_encoder(STATIC_ENCODER), SelectionSettings()).choose(text)
    assert (choice.learnware_id, choice.reason) == (None, BASE_BETTER)


def test_where_a_request_belongs_to_several_tasks_the_base_model_is_measured_like_the_learnwares() -> None:
    """Each learnware is ahead of the base model in likelihood at home and level with it elsewhere: for a request that
    may be of both tasks either is better than the base model, which is ahead nowhere."""
    ahead, level = probe(0.3, likelihood=-1.0), probe(0.3, likelihood=-2.0)
    ranking = Ranking([learnware("x", ("x",), x=ahead, y=level), learnware("y", ("y",), x=level, y=ahead)])
    best = ranking.best(near(o0=-50.0, o1=-50.0), 1)
    assert best.base == pytest.approx(0.3)
    assert best.qualities[0] > best.base

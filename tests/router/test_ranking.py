"""Who is expected to answer best: measured gains where they were taken, losses everywhere else, and the base model."""

import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest

from router.index.index import Closeness
from router.ranking import USUAL_GAIN, Ranking, gain
from router.task_model import Probabilities
from specs.capability import Capability, ProbeScore
from specs.home import EVERYDAY, OTHER_ASKS
from specs.learnware import Learnware
from specs.off_task import LIKELIHOOD_WEIGHT, UNMEASURED_LOSS, Kind, OffTaskScore
from specs.specification import Specification, View
from tests.router.made_learnwares import HARMLESS, capability, learnware as made, probe

HOME = (EVERYDAY, "d questions", "other questions", OTHER_ASKS)
POINT = Specification("e", "f", 1.0, (View("whole", 1, np.ones((1, 1), np.float32), np.ones(1)),))
"""A ranking looks at no point."""
NOTHING_NEAR = Closeness(np.zeros(0, np.int64), np.zeros(0))


def learnware(
    name: str,
    tasks: tuple[str, ...],
    elsewhere: Mapping[Kind, OffTaskScore] | None = None,
    **probes: ProbeScore,
) -> Learnware:
    scores = {f"d-{task}": score for task, score in probes.items()}
    measured: Capability | None = capability(scores, elsewhere) if probes or elsewhere else None
    return made(name, POINT, tasks, measured)


def ranking(*learnwares: Learnware, classes: tuple[str, ...] = ("d-x", "d-y")) -> Ranking:
    return Ranking(learnwares, classes, HOME)


def likely(*tasks: float, home: tuple[float, ...] = (0, 0, 0, 0)) -> Probabilities:
    return Probabilities(np.array(tasks, np.float64), np.array(home, np.float64))


def test_who_was_measured_to_gain_more_is_expected_to_answer_better() -> None:
    table = ranking(learnware("good", ("x",), x=probe(0.9)), learnware("bad", ("x",), x=probe(0.2)))
    quality, matches, base = table.expect(likely(1, 0))
    assert quality[0] > base > quality[1] - LIKELIHOOD_WEIGHT
    assert quality == pytest.approx([0.3 + gain(probe(0.9)), 0.3 + gain(probe(0.2))])
    assert base == pytest.approx(0.3)
    assert matches.tolist() == [1, 1]  # the likelihood rose with both


def test_a_measured_learnware_beats_one_that_nobody_measured_when_it_is_better_than_usual() -> None:
    good, usual, poor = (
        learnware("good", ("x",), x=probe(0.9)),
        learnware("new", ("x",)),
        learnware("poor", ("x",), x=probe(0.31, likelihood=-2.0)),
    )
    quality, _, base = ranking(good, usual, poor).expect(likely(1, 0))
    assert quality[0] > quality[1] > quality[2] > base
    assert quality[1] - base == pytest.approx((gain(probe(0.9)) + gain(probe(0.31, likelihood=-2.0))) / 2)


def test_where_nobody_was_measured_everyone_gains_the_usual_on_its_own_tasks_only() -> None:
    table = ranking(learnware("a", ("x",)), learnware("b", ("x", "y")))
    quality, matches, base = table.expect(likely(0.75, 0.25))
    assert quality[0] - base == pytest.approx(0.75 * USUAL_GAIN - 0.25 * UNMEASURED_LOSS)
    assert quality[1] - base == pytest.approx(USUAL_GAIN)
    assert matches == pytest.approx([0.75, 1.0])


def test_measurements_count_by_how_probable_their_task_is() -> None:
    table = ranking(
        learnware("x", ("x",), x=probe(0.9), y=probe(0.1, likelihood=-3.0)),
        learnware("y", ("y",), x=probe(0.1, likelihood=-3.0), y=probe(0.9)),
    )
    assert int(table.expect(likely(0.9, 0.1))[0].argmax()) == 0
    assert int(table.expect(likely(0.1, 0.9))[0].argmax()) == 1
    middle, matches, _ = table.expect(likely(0.5, 0.5))
    assert middle[0] == pytest.approx(middle[1])
    assert matches == pytest.approx([0.5, 0.5])


def test_few_rows_say_little() -> None:
    level = -2.0  # in likelihood with the base model
    assert gain(probe(0.9, rows=4, likelihood=level)) == pytest.approx(0.3)
    assert gain(probe(0.9, rows=996, likelihood=level)) == pytest.approx(0.6, abs=0.01)


def test_likelihood_tells_apart_what_probability_does_not() -> None:
    table = ranking(
        learnware("a", ("x",), x=probe(0.3, likelihood=-1.5)), learnware("b", ("x",), x=probe(0.3, likelihood=-1.0))
    )
    best = table.best(likely(1, 0), NOTHING_NEAR, 2)
    assert best.owners.tolist() == [1, 0]
    assert best.qualities[0] - best.qualities[1] == pytest.approx(LIKELIHOOD_WEIGHT * 0.5 * 96 / 100)


@pytest.mark.parametrize("part", range(len(HOME)), ids=HOME)
def test_who_was_not_measured_off_its_task_loses_most_there(part: int) -> None:
    home = tuple(float(number == part) for number in range(len(HOME)))
    for one in (learnware("new", ("x",)), learnware("measured at home only", ("x",), x=probe(0.9))):
        quality, matches, base = ranking(one).expect(likely(0, 0, home=home))
        assert base == pytest.approx(1.0)
        assert quality[0] == pytest.approx(1 - UNMEASURED_LOSS) == pytest.approx(0.4)
        assert matches[0] == 0


def test_each_part_of_the_home_costs_what_was_measured_on_its_kind() -> None:
    scores = {
        Kind.EVERYDAY: OffTaskScore(4000, 0.0, 0.0, 400),
        Kind.DOMAIN: OffTaskScore(4000, 0.0, 0.0, 1200),
        Kind.MATERIAL: OffTaskScore(4000, 0.0, 0.0, 2400),
    }
    table = ranking(learnware("a", ("x",), elsewhere=scores, x=probe(0.9)))
    lost = []
    for part in range(len(HOME)):
        quality, _, base = table.expect(likely(0, 0, home=tuple(float(number == part) for number in range(4))))
        lost.append(base - quality[0])
    assert lost == pytest.approx([0.1, 0.3, 0.1, 0.6], abs=0.01)  # others' questions are as everyday work to it
    quality, _, base = table.expect(likely(0, 1))  # so is a task of others
    assert base - quality[0] == pytest.approx(0.1, abs=0.01)


def test_a_learnware_that_keeps_the_base_model_may_answer_where_one_that_does_not_may_not() -> None:
    """Both gain the same on their task; the request is as probably of the task as not."""
    table = ranking(
        learnware("keeps", ("x",), elsewhere=HARMLESS, x=probe(0.5, likelihood=-2.0)),
        learnware("labels", ("x",), x=probe(0.5, likelihood=-2.0)),
    )
    best = table.best(likely(0.5, 0, home=(0.5, 0, 0, 0)), NOTHING_NEAR, 2)
    assert best.owners.tolist() == [0, 1]
    assert best.qualities[0] > best.base > best.qualities[1]


def test_no_gain_is_expected_where_the_measured_one_is_none_or_negative() -> None:
    for score in (probe(0.3, likelihood=-2.0), probe(0.1, likelihood=-3.0)):
        best = ranking(learnware("a", ("x",), elsewhere=HARMLESS, x=score)).best(likely(1, 0), NOTHING_NEAR, 1)
        assert best.qualities[0] <= best.base
        assert best.matches[0] == 0


def test_the_probability_to_do_as_well_as_the_base_is_what_was_counted() -> None:
    table = ranking(learnware("a", ("x",), elsewhere=HARMLESS, x=probe(0.9, rows=91, at_least_base=1.0)))
    assert table.at_least_base(0, likely(1, 0)) == pytest.approx(0.99)
    assert table.at_least_base(0, likely(0, 0, home=(0, 0, 0, 1))) == pytest.approx(1, abs=0.01)
    unmeasured = ranking(learnware("a", ("x",)))
    assert unmeasured.at_least_base(0, likely(1, 0)) == pytest.approx(8 / 9)
    assert unmeasured.at_least_base(0, likely(0, 0.5, home=(0.5, 0, 0, 0))) == pytest.approx(1 - UNMEASURED_LOSS)


def test_among_equals_the_nearer_one_comes_first() -> None:
    equal = [learnware(name, ("x",), x=probe(0.8)) for name in ("a", "b", "c")]
    table = ranking(*equal, learnware("worse", ("x",), x=probe(0.4)))
    near = Closeness(np.array([3, 1, 2, 0]), np.array([-0.5, -1.0, -2.0, -3.0]))
    best = table.best(likely(1, 0), near, 2)
    assert best.owners.tolist() == [1, 2]
    assert best.qualities[0] == best.qualities[1]


def test_a_class_of_several_tasks_is_measured_by_any_of_them() -> None:
    table = ranking(learnware("both", ("y", "x"), x=probe(0.9)), learnware("new", ("y",)), classes=("d-x+d-y", "d-y"))
    quality, _, base = table.expect(likely(1, 0))
    assert quality[0] - base == pytest.approx(gain(probe(0.9)))
    assert quality[1] - base == pytest.approx(gain(probe(0.9)))  # the usual gain of the only one that was measured
    quality, _, base = table.expect(likely(0, 1))
    assert quality - base == pytest.approx([gain(probe(0.9))] * 2)


def test_a_changed_table_is_that_of_a_new_one() -> None:
    one, two = learnware("a", ("x",), x=probe(0.9), y=probe(0.2)), learnware("b", ("y",), y=probe(0.9))
    gone, late = learnware("c", ("x",), x=probe(0.5)), learnware("d", ("w",), HARMLESS, x=probe(0.4))
    classes = ("d-x", "d-y", "d-w")
    changed = Ranking([one, gone, two], classes[:2], HOME).changed([late], [1], classes)
    new = Ranking([one, two, late], classes, HOME)
    request = likely(0.3, 0.2, 0.1, home=(0.1, 0.1, 0.1, 0.1))
    # What the average learnware gains stays as it was, so only those that were measured, or off their tasks, agree.
    quality, matches, base = changed.expect(request)
    expected, expected_matches, expected_base = new.expect(request)
    assert quality[1] == -np.inf
    assert quality[[0, 2]] == pytest.approx(expected[[0, 1]])
    assert matches[[0, 2, 3]] == pytest.approx(expected_matches)
    assert base == pytest.approx(expected_base)
    best = changed.best(request, NOTHING_NEAR, 9)
    assert sorted(best.owners) == [0, 2, 3]


def test_who_was_removed_is_no_longer_asked_for_and_does_not_count_in_the_old_table() -> None:
    before = ranking(learnware("a", ("x",), x=probe(0.9)), learnware("b", ("x",), x=probe(0.5)))
    after = before.changed([], [0], ("d-x", "d-y"))
    assert before.best(likely(1, 0), NOTHING_NEAR, 5).owners.tolist() == [0, 1]
    assert after.best(likely(1, 0), NOTHING_NEAR, 5).owners.tolist() == [1]


def test_a_ranking_made_without_some_is_one_from_which_they_were_removed() -> None:
    both = learnware("a", ("x",), x=probe(0.9)), learnware("b", ("x",), x=probe(0.5))
    whole = Ranking(both, ("d-x", "d-y"), HOME, removed=(0,))
    assert whole.best(likely(1, 0), NOTHING_NEAR, 5).owners.tolist() == [1]
    changed, made = (one.expect(likely(0.7, 0.3)) for one in (ranking(*both).changed([], [0], ("d-x", "d-y")), whole))
    assert made[0].tolist() == changed[0].tolist()
    assert made[2] == changed[2]


def test_many_tasks_and_learnwares_need_no_table_of_both() -> None:
    """2,000 of each would make 32 MB a table; one task is measured."""
    count = 2000
    classes = tuple(f"d-t{number}" for number in range(count))
    learnwares = [learnware(f"l{number}", (f"t{number}",)) for number in range(count - 1)]
    learnwares.append(learnware("measured", ("t0",), t0=probe(0.9)))
    tracemalloc.start()
    table = Ranking(learnwares, classes, HOME)
    request = likely(*np.full(count, 1 / count))
    quality, _, _ = table.expect(request)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
    assert len(quality) == count
    tasks = np.zeros(count)
    tasks[7] = 1.0
    assert table.best(Probabilities(tasks, np.zeros(4)), NOTHING_NEAR, 3).owners[0] == 7

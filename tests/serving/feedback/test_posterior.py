"""The posterior of gains: shrunk towards what is expected without feedback, and right answers and scores tell both."""

import pytest

from router.ranking import BASE_UNMEASURED
from serving.feedback.posterior import REGRESSION, posterior
from serving.feedback.robust import Mean

PRIOR = {"good": -0.1, "other": -0.05}


def seen(value: float, weight: float) -> Mean:
    return Mean(value, weight, int(weight), 1)


def test_without_feedback_it_is_the_prior() -> None:
    found = posterior(PRIOR, {}, {})
    assert found.base == pytest.approx(BASE_UNMEASURED)
    assert found.gains == pytest.approx(PRIOR)


def test_few_right_answers_move_it_in_part_and_many_all_the_way() -> None:
    few = posterior(PRIOR, {"good": seen(0.5, 4)}, {}).gains["good"]
    many = posterior(PRIOR, {"good": seen(0.5, 4000)}, {}).gains["good"]
    assert -0.1 < few < many
    assert few == pytest.approx(0.2, abs=0.05)  # the prior counts for about four pieces
    assert many == pytest.approx(0.5, abs=0.01)


def test_a_base_model_that_answers_badly_makes_others_worth_more() -> None:
    found = posterior(PRIOR, {}, {None: seen(0.1, 50)})
    assert found.base == pytest.approx(0.1, abs=0.05)
    assert found.gains["good"] == pytest.approx(-0.1 + REGRESSION * (BASE_UNMEASURED - found.base))


def test_scores_of_a_learnware_tell_its_gain_once_the_base_models_are_known() -> None:
    found = posterior(PRIOR, {}, {None: seen(0.3, 400), "good": seen(0.8, 400)})
    assert found.gains["good"] == pytest.approx(0.5, abs=0.02)
    assert found.gains["other"] < found.gains["good"]
    bad = posterior(PRIOR, {}, {None: seen(0.3, 400), "good": seen(0.1, 400)})
    assert bad.gains["good"] < 0

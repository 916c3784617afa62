"""What learnwares do off their task: which prompts, what answers come to, and what it is expected to lose."""

import math
import random

import pytest
from hypothesis import given, strategies as st

from specs.off_task import (
    LONGEST_PROMPT,
    PROMPTS,
    UNMEASURED_LOSS,
    Answered,
    Kind,
    OffTaskScore,
    off_task_prompts,
    score,
)
from specs.prompts import domain_questions, everyday_prompts, other_asks

BASE = "Prices rise when more money meets the same goods, so each unit of it buys less than before."
SOUND = Answered("Prices go up because people spend more.", BASE, -0.2, 10)
LOOP = Answered("neutral" * 9, BASE, -30.0, 10)


def test_the_prompts_are_the_projects_own_and_the_same_every_time() -> None:
    examples = [f"What is the mood of headline number {number}?" for number in range(40)]
    prompts = off_task_prompts("finance", examples)
    assert {kind: len(some) for kind, some in prompts.items()} == PROMPTS
    assert set(prompts[Kind.EVERYDAY]) <= set(everyday_prompts())
    assert set(prompts[Kind.DOMAIN]) <= set(domain_questions()["finance"])
    for prompt in prompts[Kind.MATERIAL]:
        ask, _, example = prompt.rpartition("\n")
        assert ask in other_asks("before")
        assert example in examples
    assert all(len(prompt) <= LONGEST_PROMPT for kind in (Kind.EVERYDAY, Kind.DOMAIN) for prompt in prompts[kind])
    random.Random(1).shuffle(examples)
    assert off_task_prompts("finance", examples) == prompts


def test_fewer_prompts_are_the_first_of_more() -> None:
    few = off_task_prompts("finance", (), {Kind.EVERYDAY: 5, Kind.DOMAIN: 3, Kind.MATERIAL: 2})
    many = off_task_prompts("finance", ())
    for kind, some in few.items():
        assert many[kind][: len(some)] == some


def test_a_domain_without_questions_of_its_own_is_asked_those_of_all_and_without_examples_there_is_no_material() -> (
    None
):
    prompts = off_task_prompts("law")
    assert set(prompts) == {Kind.EVERYDAY, Kind.DOMAIN}
    assert len(prompts[Kind.DOMAIN]) == PROMPTS[Kind.DOMAIN]
    owners = {
        domain for domain, some in domain_questions().items() for prompt in prompts[Kind.DOMAIN] if prompt in some
    }
    assert len(owners) > 1


def test_answers_come_to_drift_a_token_and_degenerate_ones_where_the_bases_are_not() -> None:
    nothing = Answered("", "...", -1.0, 5)  # the base says nothing either
    found = score([SOUND, LOOP, nothing])
    assert (found.prompts, found.degenerate) == (3, 1)
    assert found.drift == pytest.approx(-31.2 / 25)
    assert found.drift_error > 0
    assert score([SOUND]).drift_error == 0
    assert score([Answered("", "", 0.0, 0)]).drift == 0
    with pytest.raises(ValueError, match="no answers"):
        score([])


def test_a_label_is_degenerate_when_it_is_known_to_be_one() -> None:
    answer = Answered("rise", BASE, 0.0, 1)
    assert score([answer]).degenerate == 0
    assert score([answer], labels=("rise", "fall")).degenerate == 1


@pytest.mark.slow
def test_the_standard_error_is_that_of_many_drawings() -> None:
    generator = random.Random(2)

    def drawn() -> OffTaskScore:
        lengths = [generator.randint(5, 40) for _ in range(60)]
        return score([Answered("a b c", BASE, sum(generator.gauss(-0.3, 1) for _ in range(n)), n) for n in lengths])

    scores = [drawn() for _ in range(120)]
    mean = sum(one.drift for one in scores) / len(scores)
    spread = math.sqrt(sum((one.drift - mean) ** 2 for one in scores) / len(scores))
    assert mean == pytest.approx(-0.3, abs=0.02)
    assert sum(one.drift_error for one in scores) / len(scores) == pytest.approx(spread, rel=0.15)


SCORES = st.builds(
    lambda prompts, share, drift, error: OffTaskScore(prompts, drift, error, round(share * prompts)),
    st.integers(1, 500),
    st.floats(0, 1),
    st.floats(-20, 2),
    st.floats(0, 2),
)


@given(SCORES)
def test_intervals_hold_their_means_and_losses_are_shares(found: OffTaskScore) -> None:
    for interval in (found.degenerate_share, found.drift_interval):
        assert interval.low <= interval.mean <= interval.high
    assert found.degenerate_share.low >= 0
    assert found.degenerate_share.high <= 1
    assert 0 <= found.loss <= 1


@given(SCORES, st.integers(1, 400))
def test_worse_measurements_never_look_better(found: OffTaskScore, more: int) -> None:
    worse = OffTaskScore(found.prompts + more, found.drift, found.drift_error, found.degenerate + more)
    assert worse.degenerate_share.mean >= found.degenerate_share.mean - 1e-12
    drifted = OffTaskScore(found.prompts, found.drift - 1, found.drift_error, found.degenerate)
    assert drifted.loss >= found.loss


def test_few_prompts_say_little_and_many_say_what_was_seen() -> None:
    one, many = OffTaskScore(1, 0.0, 0.0, 0), OffTaskScore(400, 0.0, 0.0, 0)
    assert many.loss < 0.01 < one.loss < UNMEASURED_LOSS
    assert many.degenerate_share.high < 0.02 < one.degenerate_share.high
    assert OffTaskScore(400, -0.5, 0.1, 280).loss == pytest.approx(0.7 + 0.3 * 0.1, abs=0.01)
    assert pytest.approx(0.6) == UNMEASURED_LOSS

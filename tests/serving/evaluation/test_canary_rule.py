"""The rule for canaries: worse goes, as good or better comes, and without evidence nothing but failures counts."""

import pytest

from serving.config_evaluation import CanarySettings
from serving.evaluation.canary_rule import decide
from serving.evaluation.evidence import Answer, Compared, Evidence

RULE = CanarySettings()


def feedback(canary: list[float], current: float, failed: int = 0) -> Evidence:
    """Feedback on a canary's answers, each after three of the learnware's with another mean."""
    answers = []
    for number, score in enumerate(canary):
        for other in range(3):
            low = (number * 3 + other) / (3 * len(canary)) >= current
            answers.append(Answer(("t", f"{number}-{other}"), number + other / 4, False, False, float(not low), "t"))
        lost = number < failed
        answers.append(Answer(("t", str(number)), number + 0.9, True, lost, None if lost else score, "t"))
    return Evidence(tuple(answers), ())


def mixed(share: float, count: int) -> list[float]:
    """Scores of 0 and 1 that are spread evenly, with this share of ones."""
    return [float(int((n + 1) * share) > int(n * share)) for n in range(count)]


def paired(wins: int, ties: int, losses: int, unjudged: int = 0) -> Evidence:
    verdicts = [1.0] * wins + [0.0] * ties + [-1.0] * losses
    compared = [Compared(("t", str(n)), None, one, unjudged=False) for n, one in enumerate(verdicts)]
    compared += [Compared(("t", f"u{n}"), None, None, unjudged=True) for n in range(unjudged)]
    return Evidence((), tuple(compared))


def test_a_canary_that_is_never_right_goes_within_few_answers() -> None:
    found = decide(feedback([0.0] * 30, 1.0), RULE)
    assert (found.action, found.verdict) == ("roll back", "worse")
    assert decide(feedback([0.0] * 2, 1.0), RULE).action == "wait"
    assert "-1.000" in found.why


def test_a_better_one_is_promoted_as_better() -> None:
    found = decide(paired(60, 20, 10), RULE)
    assert (found.action, found.verdict) == ("promote", "better")
    assert found.quality.low > 0


def test_an_equal_one_is_promoted_as_equal() -> None:
    found = decide(paired(10, 180, 10), RULE)
    assert (found.action, found.verdict) == ("promote", "equal")
    assert -RULE.margin < found.quality.low < 0


def test_few_answers_promote_nothing() -> None:
    few = paired(0, RULE.least_answers - 1, 0)
    assert decide(few, RULE.model_copy(update={"margin": 0.5})).action == "wait"
    assert decide(paired(0, RULE.least_answers, 0), RULE.model_copy(update={"margin": 0.5})).action == "promote"


@pytest.mark.parametrize(
    ("wins", "losses", "margin", "action", "verdict"),
    [
        (380, 400, 0.1, "promote", "equal"),
        (370, 430, 0.1, "roll back", "worse"),
        (375, 385, 0.03, "promote", "equal"),
        (375, 395, 0.03, "roll back", "worse"),
    ],
)
def test_after_the_most_answers_the_mean_decides(
    wins: int, losses: int, margin: float, action: str, verdict: str
) -> None:
    evidence = paired(wins, 800 - wins - losses, losses)
    assert decide(evidence, CanarySettings(margin=margin, most_answers=801)).action == "wait"
    found = decide(evidence, CanarySettings(margin=margin, most_answers=800))
    assert (found.action, found.verdict) == (action, verdict)
    assert "the mean decides" in found.why


def test_without_evidence_nothing_is_promoted_and_the_rule_says_so() -> None:
    answers = tuple(Answer(("t", str(n)), float(n), n % 20 == 0, failed=False) for n in range(20_000))
    found = decide(Evidence(answers, ()), RULE)
    assert (found.action, found.verdict) == ("wait", "waiting")
    assert "not promoted by itself" in found.why
    assert found.quality[2:] == (-1.0, 1.0)


def test_failures_alone_roll_back() -> None:
    def failing(every: int) -> Evidence:
        return Evidence(
            tuple(Answer(("t", str(n)), float(n), n % 4 == 0, failed=n % (4 * every) == 0) for n in range(400)), ()
        )

    found = decide(failing(1), RULE)
    assert (found.action, found.verdict) == ("roll back", "worse")
    assert "fails" in found.why
    assert decide(failing(3), RULE).action == "roll back"
    assert decide(failing(200), RULE).action == "wait"


def test_a_canary_that_fails_a_little_more_often_is_not_promoted() -> None:
    equal = [1.0] * 100
    assert decide(feedback(equal, 1.0), RULE).action == "promote"
    assert decide(feedback(equal, 1.0, failed=6), RULE).action == "wait"


def test_a_judge_that_often_fails_is_not_believed() -> None:
    found = decide(paired(0, 300, 0, unjudged=100), RULE)
    assert found.action == "wait"
    assert "no verdict on 100 of 400" in found.why


def test_settings_that_can_never_decide_are_refused() -> None:
    with pytest.raises(ValueError, match="most_answers must be at least"):
        CanarySettings(least_answers=10, most_answers=5)

"""Simulated canaries: the same seed gives the same run, and each way of knowing says what it should."""

import numpy as np
import pytest

from benchmarks.common.scores import TaskScores
from benchmarks.evaluation import canary_runs as module
from benchmarks.evaluation.canary_runs import Known, drawn, measured, run
from benchmarks.evaluation.measure import Line, figures, lines, main, measure, measured_pairs
from serving.config_evaluation import CanarySettings

RULE = CanarySettings()


def test_a_seed_makes_a_run() -> None:
    models, known = drawn(0.8, 0.3), Known(feedback=1.0)
    first = run(models, known, 0.1, RULE, 3)
    assert first == run(models, known, 0.1, RULE, 3)
    assert first.action == "roll back"
    assert 0 < first.wrong < 0.1


def test_nothing_known_decides_nothing() -> None:
    assert run(drawn(0.8, 0.0), Known(), 0.1, RULE, 1, most=1000).action == "wait"


@pytest.mark.parametrize(
    "known", [Known(feedback=1.0), Known(both=0.5, right_answers=True), Known(both=0.5, judge_error=0.1)]
)
def test_every_source_finds_a_broken_canary(known: Known) -> None:
    found = run(drawn(0.9, 0.0), known, 0.1, RULE, 5)
    assert (found.action, found.answers <= 50) == ("roll back", True)


def test_the_judge_errs_and_likes_places_as_told() -> None:
    generator = np.random.default_rng(0)

    def verdicts(error: float, bias: float) -> list[float]:
        return [module._judged(generator, False, True, error, bias) for _ in range(500)]

    assert set(verdicts(0.0, 0.0)) == {1.0}
    assert set(verdicts(0.0, 1.0)) == {0.0}  # it names the first place in both orders
    assert np.mean(verdicts(0.2, 0.0)) == pytest.approx(0.8**2 - 0.2**2, abs=0.08)
    both_wrong = [module._judged(generator, False, False, 0.0, 0.0) for _ in range(500)]
    assert set(both_wrong) == {-1.0, 0.0, 1.0}
    assert module._judged(generator, True, True, 0.5, 0.5) == 0.0


def test_a_liar_tells_the_opposite_of_the_canary_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, bool], set[float | None]] = {}

    def decide(evidence: module.Evidence, settings: CanarySettings) -> object:
        for one in evidence.answers:
            seen.setdefault((one.by, one.canary), set()).add(one.score)
        return type("Decision", (), {"action": "wait"})

    monkeypatch.setattr(module, "decide", decide)
    run(drawn(1.0, 1.0), Known(feedback=1.0, liar=True), 0.3, RULE, 1, most=1000)
    assert seen["0", True] == {0.0}
    assert all(scores == {1.0} for who, scores in seen.items() if who != ("0", True))


def test_pairs_of_a_matrix_are_bad_equal_and_better() -> None:
    right = np.array([True] * 8 + [False] * 2)
    scores = {"d-t": right, "d-negated_t": ~right, "d-top_t": np.array([True] * 3 + [False] * 7), "base": ~right}
    matrix = {"d-t": TaskScores(list(range(10)), scores, {}, {}), "d-other": TaskScores([], {"base": right}, {}, {})}
    bad, equal, better = measured_pairs(matrix)
    assert (list(bad), len(equal), len(better)) == (["d-t"], 1, 1)
    current, canary = bad["d-t"](np.random.default_rng(0), 200)
    assert (current == ~canary).all()
    assert 0.7 < current.mean() < 0.9
    assert any(line.group == "bad measured" for line in lines(matrix))
    assert not any("measured" in line.group for line in lines(None))
    names = [line.name for line in lines(matrix)]
    assert len(names) == len(set(names))


def test_a_line_is_measured_and_the_worst_of_a_group_is_its_figure() -> None:
    same = np.ones(4, bool)
    rows = {
        "bad": measure(Line("bad", "bad", Known(feedback=1.0), 0.2, [drawn(0.9, 0.0)]), 3, RULE, 1),
        "equal": measure(Line("equal", "equal", Known(feedback=1.0), 0.2, [measured(same, same)]), 2, RULE, 1),
        "unknown": measure(Line("nothing known", "x", Known(), 0.2, [drawn(0.5, 0.5)], 200), 2, RULE, 1),
    }
    assert rows["bad"]["rolled_back"]["share"] == rows["bad"]["rolled_back_within"] == 1.0
    assert rows["unknown"]["answers"] is None
    found = figures(rows | {"worse": {**rows["equal"], "promoted": {"share": 0.4}}})
    assert found["bad_rolled_back_within_100"] == 1.0
    assert found["equal_promoted"] == 0.4
    assert found["nothing_known_promoted"] == 0.0


def test_a_matrix_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--matrix", "/nowhere.json"]) == 1
    assert "is not a score matrix" in capsys.readouterr().err

"""Figures of the choice, on cases whose choices are given."""

import math
from collections.abc import Mapping

import pytest

from benchmarks.common.cases import Case, Starters, said
from benchmarks.common.statistics import Share, share
from benchmarks.selection.figures import MISSES, ChoiceFigures, by_key, outcomes_of
from router.selection import Choice
from router.turn import Conversation

STARTERS = Starters(("finance-tfns", "finance-fiqa_sa", "finance-xbrl_term"), frozenset({"finance-xbrl_term"}))
TFNS, FIQA, XBRL = STARTERS.ids


class Given:
    """Chooses by the last turn's text; what is not listed goes to the base model."""

    name = "given"

    def __init__(self, choices: Mapping[str, str]) -> None:
        self._choices = choices

    def choose(self, conversation: Conversation) -> Choice:
        chosen = self._choices.get(conversation.turns[-1])
        return Choice(chosen, 0.9, 0.9, "given", (), probabilities=(("finance-tfns", 0.9),))


def figures(cases: list[Case], choices: Mapping[str, str]) -> ChoiceFigures:
    return ChoiceFigures(outcomes_of(cases, Given(choices)), STARTERS)


def test_a_row_that_the_base_answers_is_neither_right_nor_of_a_wrong_domain() -> None:
    cases = [Case("whole", said(text), TFNS, "finance", TFNS) for text in ("a", "b", "c", "d")]
    found = figures(cases, {"a": TFNS, "b": FIQA, "c": "healthcare-x"}).flat()
    assert found["task_accuracy"] == 0.25
    assert found["domain_accuracy"] == 0.5
    assert found["wrong_domain_whole"] == 0.25
    assert found["in_domain_to_base"] == 0.25
    assert found["task_recognised"] == 1.0


def test_neighbours_count_in_their_own_figure_alone() -> None:
    cases = [Case("reworded", said(text), TFNS, "finance", TFNS) for text in ("a", "b", "c")]
    found = figures(cases, {"a": TFNS, "b": FIQA, "c": XBRL}).flat()
    assert found["reworded_right_task"] == pytest.approx(1 / 3)
    assert found["reworded_right_or_neighbour"] == pytest.approx(2 / 3)


def test_another_ask_may_go_to_a_learnware_that_answers_in_sentences_but_not_to_a_label() -> None:
    cases = [Case("other_ask", said(text), None, "finance", text) for text in ("a", "b", "c", "d")]
    found = figures(cases, {"a": TFNS, "b": XBRL})
    assert found.shares["other_ask_to_label"] == Share(1, 4)
    assert found.shares["other_ask_to_base"] == Share(2, 4)
    assert [one["text"] for one in found.missed("other_ask_to_label")] == ["a"]


def test_only_conversations_that_a_label_answered_before_can_stay_with_it() -> None:
    def ask(row: str, text: str) -> Case:
        return Case("explain", said(row, text), None, "finance", text, said(row))

    cases = [ask("labelled", "why"), ask("labelled", "how"), ask("base", "why"), ask("in words", "why")]
    found = figures(cases, {"labelled": TFNS, "in words": XBRL, "why": TFNS})
    assert found.shares["explanation_stays_with_label"] == Share(1, 2)


def test_of_questions_the_right_one_counts_and_every_one_may_go_wrong() -> None:
    cases = [
        Case("users", said("term"), XBRL, "finance", XBRL),
        Case("own", said("other term"), XBRL, "finance", XBRL),
        Case("users", said("advice"), None, "finance", "none"),
        Case("own", said("poem"), None, "general", "none"),
    ]
    found = figures(cases, {"term": XBRL, "other term": TFNS, "poem": XBRL}).flat()
    assert found["questions_get_theirs"] == 0.5
    assert (found["questions_get_theirs_users"], found["questions_get_theirs_own"]) == (1.0, 0.0)
    assert found["questions_get_theirs_xbrl_term"] == 0.5
    assert found["questions_of_none_to_base"] == 0.5
    assert found["questions_wrong_domain"] == 0.25
    assert found["questions_to_label"] == 0.25
    assert found["everyday_to_base"] == 0.0


def test_what_the_base_answered_before_cannot_be_lost() -> None:
    def changed(before: str, after: str) -> Case:
        return Case("changed", said(after), XBRL, "finance", "thanks", said(before))

    cases = [changed("a", "a."), changed("b", "b."), changed("c", "c.")]
    found = figures(cases, {"a": XBRL, "a.": XBRL, "b": XBRL, "c.": XBRL})
    assert found.shares["lost_thanks"] == Share(1, 2)


def test_a_figure_without_cases_is_left_out() -> None:
    found = figures([Case("whole", said("a"), TFNS, "finance", TFNS)], {})
    assert "other_ask_to_label" not in found.flat()
    assert math.isnan(found.shares["other_ask_to_label"].value)


def test_misses_are_spread_over_all_of_them() -> None:
    cases = [Case("whole", said(f"row {n}"), TFNS, "finance", TFNS) for n in range(100)]
    shown = [one["text"] for one in figures(cases, {}).missed("task_accuracy")]
    assert len(shown) == MISSES
    assert (shown[0], shown[-1]) == ("row 0", "row 87")


def test_by_key_counts_each_key_of_a_group() -> None:
    cases = [Case("bare", said(key + n), TFNS, "finance", key) for key in "xy" for n in "12"]
    cases.append(Case("whole", said("x3"), TFNS, "finance", "x"))
    outcomes = outcomes_of(cases, Given({"x1": TFNS, "x3": TFNS, "y1": TFNS, "y2": TFNS}))
    assert by_key(outcomes, "bare", lambda one: one.is_right) == {"x": Share(1, 2), "y": Share(2, 2)}


def test_wilson_intervals_of_nothing_and_all_have_a_width() -> None:
    low, high = share([False] * 100).interval
    assert (low, high) == (0.0, pytest.approx(0.037, abs=0.001))
    assert share([True] * 1000).interval[0] > share([True] * 10).interval[0]
    assert Share(0, 0).interval == (0.0, 1.0)

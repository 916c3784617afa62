"""A specification is made from the texts by which the router would find a row's task."""

import pytest

from specs.routed_rows import FOLLOW_UP_CHARS, routed_rows
from specs.row_forms import FormedRow, Message

PERSONA = Message("system", "You are a helpful assistant.")
JOB = Message("system", "You are a translator. Translate every message into Dutch.")


def test_a_system_prompt_that_says_what_to_do_stands_before_the_prompt() -> None:
    rows = [FormedRow("Hello there", "Hallo daar", (), (JOB,)), FormedRow("Hello there", "Hi", (), (PERSONA,))]
    assert routed_rows(rows) == [FormedRow(f"{JOB.content}\nHello there", "Hallo daar"), FormedRow("Hello there", "Hi")]


@pytest.mark.parametrize(("length", "counts"), [(FOLLOW_UP_CHARS, False), (FOLLOW_UP_CHARS + 1, True)])
def test_a_later_turn_counts_if_it_is_too_long_for_a_follow_up(length: int, counts: bool) -> None:
    first = FormedRow("Is the text below good news?\nProfits rose.", "yes")
    later = FormedRow("x" * length, "no", (), (Message("user", first.prompt), Message("assistant", "yes")))
    assert [row.answer for row in routed_rows([first, later])] == (["yes", "no"] if counts else ["yes"])


def test_rows_of_later_turns_alone_are_better_than_none() -> None:
    later = FormedRow("And this one?", "no", (), (Message("user", "One?"), Message("assistant", "yes")))
    assert [row.prompt for row in routed_rows([later])] == ["And this one?"]
    assert routed_rows([]) == []

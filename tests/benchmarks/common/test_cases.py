"""What is asked of the choice: real rows and our own texts, each half by itself."""

import json

import pytest

from benchmarks.common import cases as choice_cases
from benchmarks.common.cases import CHANGES, Case, Starters, conversation_of, domain_of, make_cases, said
from benchmarks.common.questions import Half
from benchmarks.common.tasks import chat_domain, data_folder

STARTERS = Starters(
    ("finance-tfns", "finance-xbrl_term", "healthcare-pubmed_section"), frozenset({"finance-xbrl_term"})
)
needs_data = pytest.mark.skipif(data_folder() is None, reason="needs the task data: LEARNWARE_DATA=folder")


def cases(half: Half, short: bool = False) -> list[Case]:
    data = data_folder()
    assert data is not None
    prompts = data.parent / "prompts"
    return make_cases(STARTERS, data, prompts if prompts.is_dir() else None, half, short)


@pytest.fixture(scope="module")
def reported() -> list[Case]:
    return cases("report")


def test_a_case_is_what_the_router_reads_of_a_body() -> None:
    wrapped = [{"role": "user", "content": "<system-reminder>\nBe quick.\n</system-reminder>\nWhat is a bond?"}]
    assert conversation_of(wrapped).turns == ("What is a bond?",)
    asked = said("first", "second", system="Be kind.")
    assert (asked.system, asked.turns) == ("Be kind.", ("first", "second"))


@pytest.mark.parametrize("learnware_id", ["finance-tfns", "acme/finance-tfns", "a-c-me/finance-x-y", "finance"])
def test_the_domain_of_an_id_is_that_of_its_name(learnware_id: str) -> None:
    assert domain_of(learnware_id) == "finance"


@needs_data
def test_every_group_of_figures_has_cases(reported: list[Case]) -> None:
    groups = {case.group for case in reported}
    assert groups >= {"whole", "bare", "reworded", "other_ask", "explain", "same_task", "own", "everyday", "changed"}
    assert groups >= {"neutral_system", "system_instruction", "wrapped_hold", "wrapped_base", "new_topic"}


@needs_data
def test_what_may_be_tuned_on_is_not_reported(reported: list[Case]) -> None:
    """Our own questions, wordings and system prompts of one half do not stand in the other."""
    tuned = cases("tune")
    for group in ("own", "reworded", "other_ask", "whole", "new_topic"):
        of = [{case.conversation.turns[-1] for case in some if case.group == group} for some in (reported, tuned)]
        assert of[0], group
        assert of[1], group
        assert not of[0] & of[1], group
    systems = [{case.conversation.system for case in some} - {""} for some in (reported, tuned)]
    assert not systems[0] & systems[1]


@needs_data
def test_labels_of_cases_are_starters_or_nobody(reported: list[Case]) -> None:
    for case in reported:
        if case.group in ("whole", "bare", "reworded", "same_task", "system_instruction"):
            assert case.asks in STARTERS.ids
        if case.group in ("other_ask", "explain", "everyday", "multiple_choice", "other_language"):
            assert case.asks is None
    assert {case.asks for case in reported if case.group == "reworded"} == set(STARTERS.ids)


@needs_data
def test_everyday_rows_are_no_domains_questions(reported: list[Case]) -> None:
    chat = [case for case in reported if case.key == "general_chat"]
    assert len(chat) > 100
    assert all(chat_domain(case.conversation.turns[0]) is None for case in chat)


@needs_data
def test_changes_stand_beside_what_was_changed(reported: list[Case]) -> None:
    changed = [case for case in reported if case.group in ("changed", "changed_row")]
    assert {case.key for case in changed} == set(CHANGES)
    assert all(case.beside is not None and case.beside != case.conversation for case in changed if case.key == "thanks")


@needs_data
def test_a_short_run_has_all_groups_and_a_part_of_the_cases(reported: list[Case]) -> None:
    short = cases("report", short=True)
    assert {case.group for case in short} == {case.group for case in reported}
    assert len(short) < len(reported) / 2


def test_follow_ups_come_after_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[dict[str, str]]] = []
    read = choice_cases.read_request

    def reading(body: bytes):  # type: ignore[no-untyped-def]
        seen.append(json.loads(body)["messages"])
        return read(body)

    monkeypatch.setattr(choice_cases, "read_request", reading)
    said("one", "why?")
    assert [message["role"] for message in seen[0]] == ["user", "assistant", "user"]

"""The estimate of a request's tokens."""

import pytest

from serving.paging.answer_lengths import KEPT, MEMORY, AnswerLengths


def test_without_an_answer_yet_a_request_may_cost_all_that_it_allows():
    assert AnswerLengths().cost("a", prompt=10, max_tokens=500) == 510


def test_a_tenants_answers_are_likely_as_long_as_its_last_ones_and_never_longer_than_allowed():
    lengths = AnswerLengths()
    for length in (10, 20):
        lengths.note("a", length)
    for _ in range(100):
        lengths.note("b", 400)
    assert lengths.cost("a", prompt=3, max_tokens=500) == 3 + 15
    assert lengths.cost("a", prompt=3, max_tokens=5) == 3 + 5
    assert lengths.cost("b", prompt=3, max_tokens=500) == 3 + 400


def test_a_new_tenant_is_expected_to_be_like_all_others():
    lengths = AnswerLengths()
    for tenant in "ab":
        lengths.note(tenant, 40)
    assert lengths.cost("new", prompt=1, max_tokens=500) == 41


def test_the_mean_follows_a_change():
    lengths = AnswerLengths()
    for length in [1000] * MEMORY + [10] * 5 * MEMORY:
        lengths.note("a", length)
    assert lengths.cost("a", 0, 2000) == pytest.approx(10, abs=10)


def test_tenants_that_have_not_asked_for_long_are_forgotten():
    lengths = AnswerLengths()
    lengths.note("first", 7)
    for number in range(2 * KEPT):
        lengths.note(number, 99)
    assert len(lengths._means) == KEPT
    assert lengths.cost("first", 0, 500) > 50

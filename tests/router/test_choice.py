"""The signed header that carries a choice from the router to a replica."""

import string

import pytest
from hypothesis import given, strategies as st

from router.choice import CHOICE_HEADER, RoutedChoice, decode_choice, encode_choice

SECRET = b"k" * 32


@given(
    learnware=st.none() | st.text(string.printable, min_size=1, max_size=30),
    reason=st.text(string.ascii_lowercase + ":-", min_size=1, max_size=20),
    score=st.floats(0, 1),
    milliseconds=st.floats(0, 1e6),
    after=st.none() | st.text(string.printable, min_size=1, max_size=30),
)
def test_what_is_written_is_read_back_and_haproxy_can_copy_it(learnware, reason, score, milliseconds, after):
    value = encode_choice(RoutedChoice(learnware, reason, score, milliseconds, after), SECRET)
    assert value.isascii()
    assert not set('"{}\r\n ') & set(value)
    choice = decode_choice(value, SECRET)
    assert choice is not None
    assert (choice.learnware, choice.reason, choice.next) == (learnware, reason, after)
    assert choice.score == pytest.approx(score, abs=1e-4)
    assert choice.milliseconds == pytest.approx(milliseconds, abs=1e-3)


def test_another_secret_or_any_changed_character_is_no_choice():
    value = encode_choice(RoutedChoice("finance-tfns", "matched", 0.9, 0.4), SECRET)
    assert decode_choice(value, b"x" * 32) is None
    for place in range(len(value)):
        changed = value[:place] + ("0" if value[place] != "0" else "1") + value[place + 1 :]
        assert decode_choice(changed, SECRET) is None


@pytest.mark.parametrize("value", ["", "finance-tfns", "learnware=a&reason=matched&score=1&ms=1", "&sign=", "é&sign=é"])
def test_an_unsigned_value_is_no_choice(value):
    assert decode_choice(value, SECRET) is None


def test_haproxy_strips_the_header_from_clients():
    """Ray's configuration deletes exactly the client headers that begin with this."""
    assert CHOICE_HEADER.startswith("x-serve-router-")


@pytest.mark.parametrize("learnware", ["acme/tfns", "a.b_c-d/e"])
def test_an_id_with_a_slash_is_read_back(learnware):
    value = encode_choice(RoutedChoice(learnware, "matched", 0.9, 0.4), SECRET)
    assert "/" not in value
    assert decode_choice(value, SECRET) == RoutedChoice(learnware, "matched", 0.9, 0.4)

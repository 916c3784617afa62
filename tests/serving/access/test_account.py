"""An account counts what the engine gives out, once, however it gives it out, and is settled once."""

from types import SimpleNamespace

import pytest

from serving.access.account import Account, TokenCount, account, counted


def output(prompt: int, *answers: int) -> SimpleNamespace:
    sequences = [SimpleNamespace(index=index, token_ids=[0] * tokens) for index, tokens in enumerate(answers)]
    return SimpleNamespace(prompt_token_ids=[0] * prompt, outputs=sequences)


@pytest.mark.parametrize(
    ("incremental", "outputs", "tokens"),
    [
        (True, [output(5, 1), output(5, 2), output(5, 1)], 9),
        (False, [output(5, 1), output(5, 3), output(5, 4)], 9),
        (False, [output(5, 4)], 9),
        (False, [output(5, 4, 6, 1)], 16),
        (True, [output(5, 1, 1), output(5, 0, 3)], 10),
        (False, [], 0),
        (False, [SimpleNamespace(prompt_token_ids=[0] * 5, outputs=SimpleNamespace(data=1))], 5),
    ],
)
def test_tokens_of_prompt_and_answers_are_counted(incremental, outputs, tokens):
    one = Account(lambda _: None)
    with one.running(TokenCount(incremental)) as count:
        for each in outputs:
            count(each)
    assert one.tokens == tokens
    assert one.unseen == (not outputs)


def test_it_is_settled_once_when_it_is_closed_and_nothing_runs():
    settled: list[int] = []
    one = Account(lambda account: settled.append(account.tokens))
    with one.running(TokenCount(False)) as first:
        with one.running(TokenCount(False)) as second:
            second(output(1, 1))
        one.close()
        assert settled == []
        first(output(2, 2))
    assert settled == [6]
    one.close()
    assert settled == [6]


def test_without_an_account_nothing_is_counted_and_nothing_fails():
    with counted(TokenCount(incremental=True)) as count:
        count(output(1, 1))
    one = Account(lambda _: None)
    before = account.set(one)
    with counted(TokenCount(incremental=True)) as count:
        count(output(1, 1))
    account.reset(before)
    assert one.tokens == 2
    assert one.entered

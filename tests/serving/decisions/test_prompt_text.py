"""The prompt's text from the bodies of every API."""

from typing import Any

import pytest

from serving.decisions.open_record import TEXT_CHARS
from serving.decisions.prompt_text import prompt_text

TURN = {"role": "user", "content": "Up or down?"}


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"messages": [{"role": "system", "content": "Be brief."}, TURN]}, "system: Be brief.\nuser: Up or down?"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Up?"}, {"type": "x"}]}]}, "user: Up?"),
        ({"messages": [[TURN], [TURN]]}, "user: Up or down?\nuser: Up or down?"),
        ({"system": "Be brief.", "messages": [TURN]}, "Be brief.\nuser: Up or down?"),
        ({"prompt": "Up?"}, "Up?"),
        ({"prompt": ["Up?", "Down?"]}, "Up?\nDown?"),
        ({"prompt": [1, 2, 3]}, "[3 token ids]"),
        ({"prompt": [[1, 2], [3]]}, "[2 token ids]\n[1 token ids]"),
        ({"input": "Up?", "instructions": "Be brief."}, "Be brief.\nUp?"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Up?"}]}]}, "user: Up?"),
        ({"messages": None, "prompt": 7}, ""),
        ({"messages": [None, 3, {"role": 5, "content": {"a": 1}}]}, ""),
        ({}, ""),
    ],
)
def test_text(payload: dict[str, Any], text: str) -> None:
    assert prompt_text(payload) == text


def test_of_a_long_prompt_the_end_counts_and_no_depth_is_too_much() -> None:
    assert prompt_text({"prompt": "a" * 10**6 + "end"}).endswith("aend")
    assert len(prompt_text({"prompt": "a" * 10**6})) == 2 * TEXT_CHARS
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    assert prompt_text({"messages": deep}) == ""

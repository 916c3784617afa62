"""Rows of a task for training: read in every form, and encoded as the model is served with them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.training.rows import EncodedRow, Row, encode_rows, read_rows, rows_hash
from specs.errors import InvalidInput
from specs.row_forms import Message

SYSTEM = Message("system", "S")


class Characters(SimpleNamespace):
    """A tokenizer whose tokens are characters, and whose chat template names the roles by their first letters."""

    chat_template: Any = "a template"
    eos_token_id = 0

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
        return "".join(f"{one['role'][0]}:{one['content']}|" for one in messages) + "a:"


def text(tokens: list[int]) -> str:
    return "".join(map(chr, tokens))


def test_a_chat_is_learnt_turn_by_turn_below_what_was_said_before(tmp_path: Path) -> None:
    said = [("system", "S"), ("user", "1"), ("assistant", "one"), ("user", "2"), ("assistant", "two")]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": content} for role, content in said]}))
    rows = read_rows(path)
    assert rows[0] == Row("1", "one", (), (SYSTEM,))
    encoded = encode_rows(rows, Characters(), 99)  # type: ignore[arg-type]
    assert [text(row.prompt) for row in encoded] == ["s:S|u:1|a:", "s:S|u:1|a:one|u:2|a:"]
    assert [text(row.answer[:-1]) for row in encoded] == ["one", "two"]
    plain = encode_rows(rows, Characters(chat_template=None), 99)  # type: ignore[arg-type]
    assert plain[1] == EncodedRow([ord(c) for c in "S\n1\none\n2"], [*map(ord, "two"), 0])


def test_rows_that_begin_otherwise_are_others() -> None:
    plain, under = Row("1", "one"), Row("1", "one", (), (SYSTEM,))
    assert rows_hash([plain]) != rows_hash([under])
    # as it was before rows could have messages before them: scores on disk are found by it
    assert rows_hash([plain]) == "3451bcd9f0c493c7900f6fef69418c8456b85767ff39b551b38e5bc33ef9e1c9"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a"}, "line 1: the row has no answer to learn from"),
        ({"messages": [{"role": "user", "content": "a"}]}, "line 1: the row has no answer to learn from"),
        ({"prompt": "a", "answer": "c", "choices": ["b"]}, "neither one of the choices nor the letter"),
    ],
)
def test_a_row_that_cannot_be_learnt_is_named(tmp_path: Path, row: Any, reason: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(InvalidInput, match=reason):
        read_rows(tmp_path / "rows.jsonl")


def test_no_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n")
    with pytest.raises(InvalidInput, match="has no rows; expected is `prompt` and `answer`"):
        read_rows(tmp_path / "rows.jsonl")

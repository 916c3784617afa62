"""Every form in which people keep rows is read as a prompt and its answer."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from specs.errors import InvalidInput
from specs.row_forms import FormedRow, Message, read_formed_rows

PLAIN = FormedRow("Is it red?", "yes")
FORMS: dict[str, dict[str, Any]] = {
    "prompt and answer": {"prompt": "Is it red?", "answer": "yes"},
    "prompt and completion": {"prompt": "Is it red?", "completion": "yes"},
    "question and answer": {"Question": "Is it red?", "Answer": "yes"},
    "Alpaca": {"instruction": "Is it red?", "input": "", "output": "yes"},
    "OpenAI's messages": {
        "messages": [{"role": "user", "content": "Is it red?"}, {"role": "assistant", "content": "yes"}]
    },
    "ShareGPT": {
        "id": "7",
        "conversations": [{"from": "human", "value": "Is it red?"}, {"from": "gpt", "value": "yes"}],
    },
    "messages as a prompt": {"prompt": [{"role": "user", "content": "Is it red?"}], "completion": "yes"},
    "content in parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Is it red?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        ]
    },
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format of the path's ending."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8-sig")
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ";")
            writer.writeheader()
            cells = [
                {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
                for row in rows
            ]
            writer.writerows(cells)
    return path


@pytest.mark.parametrize(
    ("form", "ending"),
    [
        (form, ending)
        for form in FORMS
        for ending in (".jsonl", ".json", ".csv", ".tsv", ".parquet")
        if form != "messages as a prompt" or ending not in {".csv", ".tsv"}  # there a prompt is a text
    ],
)
def test_each_form_is_read_from_each_format(tmp_path: Path, form: str, ending: str) -> None:
    assert read_formed_rows(write(tmp_path / f"rows{ending}", [FORMS[form]] * 2)) == [PLAIN, PLAIN]


def test_an_input_stands_below_its_instruction_and_choices_in_a_cell_are_a_list(tmp_path: Path) -> None:
    row = {"instruction": "Which?", "input": "A; or\nB", "output": "A", "choices": ["A", "B"]}
    assert read_formed_rows(write(tmp_path / "rows.csv", [row])) == [FormedRow("Which?\nA; or\nB", "A", ("A", "B"))]


def test_a_conversation_gives_a_row_for_each_answer_with_what_was_said_before(tmp_path: Path) -> None:
    said = [
        ("system", "Be brief."),
        ("human", "One?"),
        ("gpt", "1"),
        ("human", "Two?"),
        ("gpt", "2"),
        ("human", "Three?"),
    ]
    row = {"conversations": [{"from": who, "value": text} for who, text in said]}
    system, *rest = (
        Message(role, text)
        for role, text in zip(("system", "user", "assistant"), ("Be brief.", "One?", "1"), strict=True)
    )
    assert read_formed_rows(write(tmp_path / "rows.jsonl", [row])) == [
        FormedRow("One?", "1", (), (system,)),
        FormedRow("Two?", "2", (), (system, *rest)),
    ]


def test_a_system_column_stands_before_the_prompt(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "instruction": "One?", "output": 1}
    assert read_formed_rows(write(tmp_path / "rows.jsonl", [row])) == [
        FormedRow("One?", "1", (), (Message("system", "Be brief."),))
    ]


def test_a_conversation_is_read_up_to_a_tool(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "The weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ]
    assert [row.answer for row in read_formed_rows(write(tmp_path / "rows.jsonl", [{"messages": messages}]))] == ["1"]


def test_rows_without_answers_are_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": "One?"}, {"messages": [{"role": "user", "content": "Two?"}]}]
    assert read_formed_rows(write(tmp_path / "rows.jsonl", rows)) == [FormedRow("One?"), FormedRow("Two?")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"text": "a", "label": "b"},
            r"line 1: a row needs a `prompt`.*columns are text, label; known are .*`messages`",
        ),
        ({"messages": "hello"}, "`messages` must be a list of messages"),
        ({"messages": [{"role": "king", "content": "a"}]}, "the role 'king'; known are system, .*human"),
        ({"messages": [{"role": "user", "content": 5}]}, "must be a text, not 5"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no message of the user"),
        ({"instruction": " ", "output": "a"}, "needs a `instruction` with some text"),
        ({"prompt": "a", "choices": "b"}, "`choices` must be a list of texts"),
        ({"prompt": {"a": 1}}, "`prompt` must be a text"),
    ],
)
def test_what_is_of_no_form_says_what_was_found_and_what_is_known(tmp_path: Path, row: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        read_formed_rows(write(tmp_path / "rows.jsonl", [row]))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.csv", b"prompt,answer\na,b,c\n", r"rows\.csv, line 2 has more cells"),
        ("rows.csv", b'prompt,answer\n"a,b\n', r"rows\.csv, line \d is no row of a table"),
        ("rows.csv", b"prompt,answer\n", "holds no rows"),
        ("rows.parquet", b"prompt,answer\n", "not a whole Parquet file"),
        ("rows.json", b'[{"prompt": "a"}', "begins as a JSON array, but is none"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=reason):
        read_formed_rows(tmp_path / name)


def test_a_long_cell_of_a_table_is_read(tmp_path: Path) -> None:
    assert read_formed_rows(write(tmp_path / "rows.csv", [{"prompt": "a " * 100_000, "answer": "b"}]))[0].answer == "b"

"""Rows are read one at a time, each with the place that an error names."""

from itertools import islice
from pathlib import Path

import pytest

from specs.errors import InvalidInput
from specs.rows import rows_of


def test_json_lines_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a\u2028b"}\n\n"c"\n', encoding="utf-8")
    assert list(rows_of(path)) == [("rows.jsonl, line 1", {"prompt": "a\u2028b"}), ("rows.jsonl, line 3", "c")]


def test_a_text_file_has_a_row_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"{one}\r\n \n two \n")
    assert list(rows_of(path)) == [("rows.txt, line 1", "{one}"), ("rows.txt, line 3", " two ")]


def test_what_lies_behind_the_rows_taken_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('"a"\n{\n')
    assert list(islice(rows_of(path), 1)) == [("rows.jsonl, line 1", "a")]
    with pytest.raises(InvalidInput, match=r"rows\.jsonl, line 2 is not JSON"):
        list(rows_of(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"the rows .*nowhere\.jsonl cannot be read"):
        list(rows_of(tmp_path / "nowhere.jsonl"))

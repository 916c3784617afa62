"""A benchmark's result as JSON and as a page."""

import argparse
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.common.report import LISTED, add_output_options, page, result, write_result

RESULTS = sorted(Path(__file__).parents[3].glob("benchmarks/results/*.json"))
CONTENT = result(
    "some benchmark",
    {"ratio": 0.98765, "share": 0.5},
    {"cpu": "<any> & more", "cores": 2, "versions": {"numpy": "2"}},
    {
        "intervals_95": {"ratio": (0.9, 1.1)},
        "by_task": {"one": {"right": 0.25}, "two": {"rows": 7}},
        "nested": {"deep": {"deeper": {"x": 1}, "plain": [1, 2]}, "flat": None},
        "missed": [{"text": "<script>"}, {"text": "b"}],
        "long": list(range(LISTED + 1)),
        "seconds": 7,
    },
)


class Cells(HTMLParser):
    """Collects rows of tables as lists of their cells' text; fails where tags are not closed in their order."""

    void = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def cells_of(content) -> list[list[str]]:
    parser = Cells()
    parser.feed(page(content))
    assert parser.open == []
    return parser.rows


def test_a_page_shows_figures_with_their_intervals_and_the_setup():
    rows = cells_of(CONTENT)
    assert ["figure", "value", "95 %"] in rows
    assert ["ratio", "0.9877", "0.9, 1.100"] in rows
    assert ["share", "0.5", ""] in rows
    assert ["cpu", "<any> & more"] in rows


def test_details_are_tables():
    rows = cells_of(CONTENT)
    assert ["", "right", "rows"] in rows
    assert ["one", "0.25", ""] in rows
    assert ["two", "", "7"] in rows
    assert ["flat", "–"] in rows
    assert ["x", "1"] in rows
    assert ["plain", "1, 2"] in rows
    assert ["1", "<script>"] in rows
    assert ["7"] in rows
    assert any(row[0].endswith(f"… ({LISTED + 1} in all)") for row in rows)


def test_nothing_of_a_result_becomes_markup_and_nothing_is_fetched():
    shown = page(CONTENT, [b"\x89PNG"])
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert shown.count("data:image/png;base64,iVBORw==") == 1
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", shown)


def test_both_files_are_written_where_the_options_ask_for_them(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_output_options(parser)
    write_result(parser.parse_args([]), CONTENT)
    assert capsys.readouterr().out == ""
    files = [tmp_path / "new" / name for name in ("a.json", "a.html")]
    write_result(parser.parse_args(["--json", str(files[0]), "--html", str(files[1])]), CONTENT)
    assert json.loads(files[0].read_text(encoding="utf-8"))["figures"] == CONTENT["figures"]
    assert files[1].read_text(encoding="utf-8") == page(CONTENT)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_of_the_project_can_be_shown(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    if "figures" not in content:
        pytest.skip("written by the command line, not by a benchmark")
    rows = cells_of(content)
    assert {name for name, *_ in rows if name} >= set(content["figures"])

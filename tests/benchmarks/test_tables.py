"""Tables of figures in README files: made from results, checked, written, and refused where a marker is wrong."""

import json
from pathlib import Path

import pytest

from benchmarks.tables.blocks import filled
from benchmarks.tables.cells import (
    HUNDREDTHS,
    MISSED,
    NOT_MEASURED,
    PERCENT,
    SIGNED_TENTHS,
    Quantity,
    Results,
    at_least,
    at_most,
    with_interval,
)
from benchmarks.tables.main import RESULTS, ROOT, TABLES, main, markdown_files, table_of
from specs.errors import InvalidInput

STALE = "# Page\n\n<!-- figures: overhead -->\n| output tokens/s | 99 |\n<!-- /figures -->\n\nText below.\n"
INCOMPLETE = {"starters_sentences", "selection_rules", "harm", "chaos"}
"""Tables with cells that nobody measures: a control, a rule, a share of no answers, a time of what did not happen."""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(STALE, encoding="utf-8")
    return path


def test_every_page_of_the_project_shows_the_figures_of_the_results(capsys):
    pages = markdown_files(ROOT)
    assert ROOT / "README.md" in pages
    assert main([]) == 0, capsys.readouterr().out


def test_a_stale_figure_fails_and_is_shown(page, capsys):
    assert main([str(page)]) == 1
    assert "-| output tokens/s | 99 |" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == STALE


def test_writing_mends_a_stale_figure_and_nothing_else(page, capsys):
    assert main([str(page), "--write"]) == 0
    content = page.read_text(encoding="utf-8")
    figures = json.loads((RESULTS / "overhead.json").read_text(encoding="utf-8"))["figures"]
    assert f"| {figures['throughput_ratio_c8']:.2f} (" in content
    assert "| 99 |" not in content
    assert content.startswith("# Page\n\n<!-- figures: overhead -->\n|")
    assert content.endswith("<!-- /figures -->\n\nText below.\n")
    assert main([str(page)]) == 0


def test_one_changed_digit_is_found(page):
    main([str(page), "--write"])
    content = page.read_text(encoding="utf-8")
    page.write_text(content.replace("≥ 0.97", "≥ 0.96"), encoding="utf-8")
    assert main([str(page)]) == 1


def test_an_unknown_name_is_refused_with_its_place_and_the_nearest_name(page, capsys):
    page.write_text(STALE.replace("overhead", "overhed"), encoding="utf-8")
    assert main([str(page), "--write"]) == 1
    message = capsys.readouterr().err
    assert "README.md:3:" in message
    assert "'overhed'" in message
    assert "did you mean 'overhead'?" in message


def test_a_result_that_is_missing_is_refused(page, tmp_path, capsys):
    assert main([str(page), "--results", str(tmp_path)]) == 1
    assert "overhead.json" in capsys.readouterr().err


def test_a_result_without_what_a_table_shows_is_refused(tmp_path):
    content = {"figures": {}, "setup": {"cpu": "", "cores": 1, "revision": ""}, "details": {}}
    (tmp_path / "overhead.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InvalidInput, match="'overhead' has no 'rounds'"):
        table_of("overhead", Results(tmp_path))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("<!-- figures: a -->\ntext", "page:1: this block of figures has no"),
        ("text\n<!-- /figures -->", "page:2: a block of figures ends here"),
        ("<!-- figures: a -->\n<!-- figures: b -->\n<!-- /figures -->", "page:2: the block of line 1 has no end"),
    ],
)
def test_a_marker_without_its_partner_is_refused(content, complaint):
    with pytest.raises(InvalidInput, match=complaint):
        filled(content, str, "page")


def test_markers_inside_a_code_block_are_left_alone():
    content = "```\n<!-- figures: a -->\n<!-- /figures -->\n```\n<!-- figures: b -->\nold\n<!-- /figures -->"
    assert filled(content, lambda name: f"table {name}", "page") == content.replace("old", "table b")


def test_a_table_that_holds_a_fence_does_not_hide_the_end_of_its_block():
    content = "<!-- figures: a -->\n```\n<!-- /figures -->\nafter"
    assert filled(content, str, "page") == "<!-- figures: a -->\na\n<!-- /figures -->\nafter"


@pytest.mark.parametrize("name", [name for name in TABLES if name != "lora_ops"])
def test_every_table_can_be_made_from_the_projects_results(name):
    made = table_of(name, Results(RESULTS))
    header, rule, *rows = [line for line in made.splitlines() if line.startswith("|")]
    assert rows
    assert {row.count(" | ") for row in [header, *rows]} == {rule.count("|") - 2}
    if name not in INCOMPLETE:
        assert NOT_MEASURED not in made, "a figure is missing, or its name in the table's definition is wrong"


def test_the_first_page_has_four_rows():
    rows = [line for line in table_of("headline", Results(RESULTS)).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4


def test_operators_are_shown_with_the_range_of_their_rounds(tmp_path):
    content = {
        "figures": {"stock_over_base_decode_1": 0.35, "ours_over_base_decode_1": 0.78},
        "setup": {"cpu": "a CPU", "cores": 2, "revision": "abc"},
        "details": {"ours_over_base_decode_1": [0.7, 0.8]},
    }
    (tmp_path / "lora_ops.json").write_text(json.dumps(content), encoding="utf-8")
    made = table_of("lora_ops", Results(tmp_path))
    assert "| decode, 1 row | 0.35 | 0.78 (0.70 to 0.80) |" in made
    assert "(a CPU, 2 cores; revision abc)" in made


def test_a_missed_aim_is_marked():
    assert at_least(0.97).text(0.96, HUNDREDTHS) == f"≥ 0.97 {MISSED}"
    assert at_least(0.97).text(0.97, HUNDREDTHS) == "≥ 0.97"
    assert at_most(0.03).text(0.031, PERCENT) == f"≤ 3 % {MISSED}"
    assert at_most(12).text(-11.1, SIGNED_TENTHS) == "≤ +12"
    assert at_most(12).text(None, SIGNED_TENTHS) == "≤ +12"


def test_equal_aims_are_written_once_unless_only_one_is_missed(tmp_path):
    content = {"figures": {"a": 0.9, "b": 0.7}, "setup": {}, "details": {}}
    (tmp_path / "some.json").write_text(json.dumps(content), encoding="utf-8")
    result = Results(tmp_path).of("some")
    assert result.aims([Quantity("a", aim=at_least(0.5)), Quantity("b", aim=at_least(0.5))]) == "≥ 0.5"
    assert (
        result.aims([Quantity("a", aim=at_least(0.8)), Quantity("b", aim=at_least(0.8))]) == f"≥ 0.8 / ≥ 0.8 {MISSED}"
    )


def test_an_interval_has_its_unit_once_and_a_true_minus():
    assert with_interval(0.5, (0.4, 0.6), PERCENT) == "50.0 % (40.0 to 60.0 %)"
    assert with_interval(-1.0, (-2.0, 3.0), SIGNED_TENTHS) == "−1.0 (−2.0 to +3.0)"
    assert with_interval(None, None, PERCENT) == NOT_MEASURED


def test_hidden_folders_and_virtual_environments_are_not_searched(tmp_path):
    for folder in (".hidden", "environment", "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "page.md").touch()
    (tmp_path / "environment" / "pyvenv.cfg").touch()
    assert markdown_files(tmp_path) == [tmp_path / "docs" / "page.md"]

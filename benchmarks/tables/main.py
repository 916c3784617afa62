"""Keeps the tables of figures in README files equal to `benchmarks/results`.

    python -m benchmarks.tables [FILE …]            shows where a file differs and exits with 1
    python -m benchmarks.tables [FILE …] --write    writes the tables into the files
    python -m benchmarks.tables --list              shows every table with its name

Without FILE, all Markdown files of the project are looked at. `benchmarks.tables.blocks` describes the markers.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.tables import chaos_table, choice_tables, engine_tables, headline_table, starter_tables
from benchmarks.tables.blocks import filled
from benchmarks.tables.cells import Results, Table
from specs.errors import InvalidInput

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"

TABLES: Mapping[str, Callable[[Results], Table]] = {
    "headline": headline_table.headline,
    "overhead": engine_tables.overhead,
    "paging": engine_tables.paging,
    "paging_grid": engine_tables.paging_grid,
    "lora_ops": engine_tables.lora_ops,
    "affinity": engine_tables.affinity,
    "simulate": engine_tables.simulate,
    "simulate_scale": engine_tables.simulate_scale,
    "simulate_limits": engine_tables.simulate_limits,
    "routing": choice_tables.routing,
    "routing_changes": choice_tables.routing_changes,
    "selection": choice_tables.selection,
    "selection_rules": choice_tables.selection_rules,
    "harm": choice_tables.harm,
    "market": choice_tables.market,
    "market_rules": choice_tables.market_rules,
    "privacy": choice_tables.privacy,
    "chaos": chaos_table.chaos,
    "starters": starter_tables.starters,
    "starters_sentences": starter_tables.starters_sentences,
}
"""Every table by the name that a marker gives."""


def table_of(name: str, results: Results) -> str:
    """Returns a table as Markdown.

    Raises:
        InvalidInput: no table has this name, or its result cannot be read.
    """
    if name not in TABLES:
        near = difflib.get_close_matches(name, TABLES, n=1)
        hint = f", did you mean {near[0]!r}?" if near else "."
        raise InvalidInput(f"there is no table of figures named {name!r}{hint} The names are {', '.join(TABLES)}")
    try:
        return TABLES[name](results).markdown()
    except KeyError as error:
        raise InvalidInput(f"the result behind the table {name!r} has no {error}") from error


def markdown_files(root: Path) -> list[Path]:
    """Returns the Markdown files below `root`, without those in hidden folders and virtual environments."""
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name for name in folders if not name.startswith(".") and not Path(folder, name, "pyvenv.cfg").exists()
        ]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


def difference(path: Path, results: Results, write: bool) -> list[str]:
    """Returns the lines by which a file differs from what it should be; with `write`, it is changed to that.

    Raises:
        InvalidInput: a marker in it is wrong, or a table cannot be made.
    """
    today = path.read_text(encoding="utf-8")
    wanted = filled(today, lambda name: table_of(name, results), str(path))
    if write and wanted != today:
        path.write_text(wanted, encoding="utf-8")
    ends = f"{path} (as it is)", f"{path} (from the results)"
    return list(difflib.unified_diff(today.splitlines(), wanted.splitlines(), *ends, lineterm="", n=1))


def show_all(results: Results) -> None:
    for name in TABLES:
        print(f"<!-- figures: {name} -->")
        try:
            print(table_of(name, results))
        except InvalidInput as error:
            print(f"({error})")
        print("<!-- /figures -->\n")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    results = Results(options.results)
    if options.list:
        show_all(results)
        return 0
    try:
        changed = {
            path: lines
            for path in options.files or markdown_files(ROOT)
            if (lines := difference(path, results, options.write))
        }
    except (InvalidInput, OSError) as error:
        print(f"benchmarks.tables: {error}", file=sys.stderr)
        return 1
    for path, lines in changed.items():
        print(f"written: {path}" if options.write else "\n".join(lines))
    return 1 if changed and not options.write else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="Markdown files (default: the project's)")
    parser.add_argument("--write", action="store_true", help="update the files instead of showing differences")
    parser.add_argument("--list", action="store_true", help="show every table with its name")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    return parser.parse_args(arguments)

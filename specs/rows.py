"""A file of rows, read one at a time: JSON lines, a JSON array, a table (CSV, TSV, Parquet), or texts.

What a row says is read from its columns elsewhere (`specs.row_forms`).
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from specs.errors import InvalidInput

ENDINGS = ".jsonl, .json, .csv, .tsv, .parquet or .txt"
"""Endings of the files that are read; one with another ending is read as JSON."""
SEPARATORS = {".csv": ",;\t", ".tsv": "\t"}
"""Characters that may separate the cells of a table with this ending: the one that its first line has most of does.
Spreadsheets in many countries write semicolons."""
CELL_CHARS = 1 << 24
"""The longest cell of a table that is read, in characters; the csv module's own bound of 131,072 is less than a long
conversation has."""
BATCH = 256
"""Rows of a Parquet file that are read at a time."""


def rows_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields each row with its place (`<name>, line 3`): a JSON value, a table's row as a dict by its column names, or
    in a `.txt` file the line itself. Empty lines are left out; what a row must hold is the caller's to check.

    Raises:
        InvalidInput: the file cannot be read, or something in it is not of its format; the message names the line.
    """
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            yield from _parquet(path)
            return
        with path.open(encoding="utf-8-sig", newline="" if ending in SEPARATORS else None) as file:
            if ending in SEPARATORS:
                yield from _table(file, path.name, SEPARATORS[ending])
            elif ending != ".txt" and _begins_array(file):
                yield from _array(file, path.name)
            else:
                yield from _lines(file, path.name, texts=ending == ".txt")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the rows {path} cannot be read: {error}") from None


def _lines(file: TextIO, name: str, *, texts: bool) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            place = f"{name}, line {number}"
            yield place, line.rstrip("\r\n") if texts else _parsed(line, place)


def _parsed(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{place} is not JSON: {error}") from None


def _begins_array(file: TextIO) -> bool:
    """Whether the first character that is no blank opens an array; the file stands at its beginning afterwards."""
    line = next((line for line in file if line.strip()), "")
    file.seek(0)
    return line.lstrip("\ufeff \t\r\n").startswith("[")


def _array(file: TextIO, name: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} begins as a JSON array, but is none: {error}") from None
    for number, row in enumerate(rows, 1):
        yield f"{name}, row {number}", row


def _table(file: TextIO, name: str, separators: str) -> Iterator[tuple[str, Any]]:
    head = file.readline()
    file.seek(0)
    csv.field_size_limit(CELL_CHARS)
    reader = csv.DictReader(file, delimiter=max(separators, key=head.count), strict=True)
    try:
        for row in reader:
            place = f"{name}, line {reader.line_num}"
            if None in row:
                raise InvalidInput(
                    f"{place} has more cells than the head names columns; a cell with a separator or a line break "
                    "stands in quotation marks"
                )
            if any((value or "").strip() for value in row.values()):
                yield place, row
    except csv.Error as error:
        raise InvalidInput(f"{name}, line {reader.line_num} is no row of a table: {error}") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]
    except ImportError:
        raise InvalidInput(
            f"{path.name} is a Parquet file, which needs the package pyarrow: install it, or give JSON lines or CSV"
        ) from None
    number = 0
    try:
        with path.open("rb") as content:
            for batch in parquet.ParquetFile(content).iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name}, row {number}", row
    except ArrowException as error:
        raise InvalidInput(f"{path.name} is not a whole Parquet file: {' '.join(str(error).split())}") from None

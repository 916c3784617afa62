"""A file of rows, read one at a time: JSON lines, or texts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specs.errors import InvalidInput


def rows_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields each row with its place (`<name>, line 3`): a line's JSON value, or in a `.txt` file the line itself.
    Empty lines are left out; what a row must hold is the caller's to check.

    Raises:
        InvalidInput: the file cannot be read, or a line is not JSON; the message names the line.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    place = f"{path.name}, line {number}"
                    yield place, line.rstrip("\r\n") if path.suffix == ".txt" else _parsed(line, place)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the rows {path} cannot be read: {error}") from None


def _parsed(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{place} is not JSON: {error}") from None

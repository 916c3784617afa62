"""Blocks of a Markdown file that hold a table of figures.

A block begins with the line `<!-- figures: NAME -->` and ends with the line `<!-- /figures -->`; what stands between
them is replaced by the table NAME. A fenced code block is left alone, so that a page can show the markers.
"""

import re
from collections.abc import Callable

from specs.errors import InvalidInput

OPENING = re.compile(r"<!--\s*figures:\s*(\S+)\s*-->")
CLOSING = re.compile(r"<!--\s*/figures\s*-->")
FENCE = re.compile(r" {0,3}(```+|~~~+)")


def filled(content: str, table: Callable[[str], str], where: str) -> str:
    """Returns a file's content with every block filled; `table` gives the Markdown of a name.

    Raises:
        InvalidInput: a marker has no partner, or `table` refuses the name; the message names `where` and the line.
    """
    lines: list[str] = []
    opened: int | None = None
    fence: str | None = None
    for number, line in enumerate(content.split("\n"), start=1):
        marker = line.strip()
        if opened is None:
            fence = _fence_after(line, fence)
        if fence is None and (opening := OPENING.fullmatch(marker)):
            if opened is not None:
                raise InvalidInput(f"{where}:{number}: the block of line {opened} has no end before this one begins")
            opened = number
            lines += [line, *_table(opening[1], table, f"{where}:{number}").split("\n")]
        elif fence is None and CLOSING.fullmatch(marker):
            if opened is None:
                raise InvalidInput(f"{where}:{number}: a block of figures ends here that has not begun")
            opened = None
            lines.append(line)
        elif opened is None:
            lines.append(line)
    if opened is not None:
        raise InvalidInput(f"{where}:{opened}: this block of figures has no <!-- /figures -->")
    return "\n".join(lines)


def _fence_after(line: str, fence: str | None) -> str | None:
    """Returns the fence that is open after this line, if one is."""
    found = FENCE.match(line)
    if found is None:
        return fence
    if fence is None:
        return found[1]
    return None if found[1].startswith(fence) else fence


def _table(name: str, table: Callable[[str], str], where: str) -> str:
    try:
        return table(name)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error

"""Fetches the source that a command names, under the source's own name."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from serving.terminal import ByteBar

if TYPE_CHECKING:
    from serving.sources import Fetched


def fetch_named(source: str, place: Path, *, convert_pickle: bool = False) -> "Fetched":
    """Brings the adapter at `source` into a folder below `place` that bears the source's name, which is what checks
    call it, and says what was decided and what was left out. Raises as `serving.sources.fetch`."""
    from serving.sources import fetch
    from specs.market.intake import Limits

    with ByteBar("fetching") as bar:  # the source's text may hold a secret
        fetched = fetch(source, place / "fetched", Limits(), bar.bytes, convert_pickle=convert_pickle)
    for note in fetched.notes:
        print(note)
    if fetched.left_out:
        print(f"left out, since nothing reads it: {', '.join(fetched.left_out)}")
    named = place / "source" / (re.sub(r"[^\w.-]", "_", fetched.name).strip(".")[:64] or "adapter")
    named.parent.mkdir()
    return fetched._replace(folder=fetched.folder.rename(named))

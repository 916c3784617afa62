"""Fills a new market with the learnwares of a folder. A broken one costs itself alone."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from specs.errors import InvalidLearnware
from specs.learnware import learnware_folders
from specs.market.fitness import same_id
from specs.market.journal import State

if TYPE_CHECKING:
    from specs.market.staged import Staged
    from specs.market.store import Market

SEED_BATCH = 100
"""Learnwares that a new market takes in at a time. Each change writes the whole catalogue: one by one, the time would
grow with the square of their number."""

Say = Callable[[str], object]
"""A callback that shows a line to the operator."""


def seed(market: "Market", folder: Path, say: Say, *, strict: bool = False) -> None:
    """Fills a new market with the learnwares in the sub-folders of `folder`, by name. It is done once, and continued
    after a crash. A broken one is put into quarantine, and so is one whose id another has; one that does not fit the
    configuration is kept until it does. With `strict` each of these is an error, and nothing is put into quarantine.

    Raises:
        InvalidLearnware: there is no such folder, or with `strict` some of them cannot be served; the others are in the
            market then, and the next call goes on.
    """
    if market.seeded:
        return
    sources = learnware_folders(folder)
    known: dict[str, Path | None] = {
        record.id: None for record in market.records(None) if record.state is not State.QUARANTINED
    }
    problems: list[str] = []
    for first in range(0, len(sources), SEED_BATCH):
        if first:
            say(f"{first} of {len(sources)} learnwares are in the market")
        problems += _take(market, sources[first : first + SEED_BATCH], known, strict=strict)
    if strict and problems:
        raise InvalidLearnware("; ".join(problems))
    market.end_seeding()
    for problem in problems:
        say(f"not served: {problem}")
    say(f"the market in {market.root} begins with {len(market.records())} learnwares")


def _take(market: "Market", sources: Iterable[Path], known: dict[str, Path | None], *, strict: bool) -> list[str]:
    """Takes in a batch with one change, and returns why some of it are not served. `known` maps the ids that are taken
    to their folders, None for one that was in the market before."""
    problems: list[str] = []
    with ExitStack() as folders:
        new: list[Staged] = []
        duplicates: list[tuple[Staged, str]] = []
        for source in sources:
            try:
                staged = folders.enter_context(market.stage(source, record=not strict, unfit_too=True))
            except InvalidLearnware as error:
                problems.append(str(error))
                continue
            learnware_id = staged.learnware.id
            first = known.setdefault(learnware_id, source)
            if first is not None and first != source:
                problems.append(same_id(learnware_id, first, source))
                duplicates.append((staged, problems[-1]))
            elif first is not None:
                problems += [] if staged.unfit is None else [staged.unfit]
                new += [staged] if staged.unfit is None or not strict else []
        market.submit_together(new)
        for staged, reason in [] if strict else duplicates:
            market.refuse(staged, reason, held_back=False)
    return problems

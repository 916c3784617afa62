"""The requirements that a configuration puts on learnwares, and the learnwares that it serves at first."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from serving.config import Config
from specs.base_layers import read_layers
from specs.base_names import names_of
from specs.errors import InvalidLearnware
from specs.learnware import Learnware, learnware_folders
from specs.market.checks import Requirements
from specs.market.fitness import Unserved, examine
from specs.market.integrity import examine_market
from specs.market.journal import is_market
from specs.market.seeding import seed
from specs.market.store import Market
from specs.pave import Basis, read_vector


class Examined(NamedTuple):
    """The learnwares that a configuration serves at first, sorted by id, and why others are not served."""

    served: list[Learnware]
    unserved: list[Unserved]


def examined_learnwares(config: Config, market: Path | None) -> Examined:
    """Examines every learnware that is to be served at first, changing nothing: those of the market in `market`, or
    those of the configured folder if there is no market yet (a new market begins with these).

    Raises:
        InvalidLearnware: the folder does not exist.
        InvalidInput: the market cannot be read.
    """
    needed = requirements(config)
    if market is not None and is_market(market):
        found = list(examine_market(market, needed))
    else:
        found = list(examine(config.learnwares.path, needed, values=True))
    served = [each for each in found if isinstance(each, Learnware)]
    return Examined(sorted(served, key=lambda each: each.id), [each for each in found if isinstance(each, Unserved)])


def requirements(config: Config) -> Requirements:
    """Returns the requirements on a learnware that follow from the configuration alone, without the base model's
    layers.

    Raises:
        InvalidSpecification: `market.vector_basis` is not a parameter vector.
    """
    named = config.market.vector_basis
    return Requirements(
        base_model=config.base_model.served_id,
        revision=config.base_model.revision,
        max_rank=config.engine.max_rank,
        basis=Basis() if named is None else read_vector(Path(named).expanduser()).basis,
        aliases=config.base_model.names,
        reserved=frozenset((config.base_model.served_id, *config.router.auto_names)),
    )


def market_requirements(config: Config, base: Path) -> Requirements:
    """Returns the requirements on a learnware that enters the configuration's market; `base` is the base model's
    folder, whose layers an adapter must fit."""
    needed = requirements(config)
    return replace(needed, layers=read_layers(base), base=base, aliases=(*needed.aliases, *names_of(base)))


def check_folder(config: Config, market: Path) -> None:
    """Checks, before anything is prepared, that a new market would find its first learnwares' folder.

    Raises:
        InvalidLearnware: it does not exist.
    """
    if not is_market(market):
        learnware_folders(config.learnwares.path)


def fill_market(config: Config, folder: Path, base: Path, say: Callable[[str], None], *, strict: bool = False) -> Path:
    """Opens the market in `folder` and returns its root. A new one is filled with `learnwares.folder`; in any other,
    what is served follows the configuration. Whatever is not served is said, with the reason; with `strict` it is an
    error.

    Raises:
        InvalidLearnware: with `strict`, some learnwares are not served; or there is no `learnwares.folder` to fill a
            new market with.
    """
    market = Market(folder, market_requirements(config, base))
    if not market.seeded:
        seed(market, config.learnwares.path, say, strict=strict)
        return market.root
    market.refit()
    problems = market.lost()
    if strict and problems:
        raise InvalidLearnware("; ".join(problems))
    for problem in problems:
        say(f"not served: {problem}")
    say(f"the market in {market.root} holds {len(market.records())} learnwares that are served")
    return market.root

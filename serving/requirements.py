"""The requirements that a configuration puts on learnwares, and the learnwares that it serves at first."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from serving.config import Config
from specs.base_layers import read_layers
from specs.base_names import names_of
from specs.learnware import Learnware, load_learnwares
from specs.market.catalogue import CATALOGUE_FILE, read_catalogue
from specs.market.checks import Requirements, check_fits_market, check_learnware
from specs.market.store import Market
from specs.pave import Basis, read_vector


def served_learnwares(config: Config, market: Path | None) -> list[Learnware]:
    """Loads every learnware that is served at first, sorted by id: those of the market in `market`, or those of the
    configured folder if there is no market yet (a new market begins with these).

    Raises:
        InvalidLearnware: one is invalid, is for another base model, has a rank that the engine's slots cannot hold, or
            an id that clients already use for something else.
        DuplicateLearnware: two have the same id.
    """
    needed = requirements(config)
    if market is not None and (market / CATALOGUE_FILE).is_file():
        return [check_learnware(entry.folder, needed, weights=False) for entry in read_catalogue(market).entries]
    learnwares = load_learnwares(config.learnwares.path, needed.served)
    for learnware in learnwares:
        check_fits_market(learnware, needed)
    return learnwares


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


def fill_market(config: Config, folder: Path, base: Path, say: Callable[[str], None]) -> Path:
    """Opens the market in `folder`, fills it with `learnwares.folder` if it is new, and returns its root.

    Raises:
        InvalidLearnware: a learnware of that folder is refused.
    """
    market = Market(folder, market_requirements(config, base))
    market.seed(config.learnwares.path, say)
    return market.root

"""The learnwares that a configuration serves, checked against it before anything is started."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from serving.config import Config
from specs.base_layers import read_layers
from specs.learnware import Learnware, load_learnwares
from specs.market.catalogue import CATALOGUE_FILE, read_catalogue
from specs.market.checks import Requirements, check_fits_market, check_learnware
from specs.market.store import Market
from specs.pave import Basis, read_vector


def served_learnwares(config: Config, market: Path | None) -> list[Learnware]:
    """Every learnware that is served at first, sorted by id: the market's, or the configured folder's if there is no
    market yet (which begins with these).

    Raises:
        InvalidLearnware: one is invalid, is for another base model, has a rank that the engine's slots cannot hold, or
            an id that clients already use for something else.
        DuplicateLearnware: two with one id.
    """
    needed = requirements(config)
    if market is not None and (market / CATALOGUE_FILE).is_file():
        return [check_learnware(entry.folder, needed, weights=False) for entry in read_catalogue(market).entries]
    learnwares = load_learnwares(config.learnwares.path, needed.base_model)
    for learnware in learnwares:
        check_fits_market(learnware, needed)
    return learnwares


def requirements(config: Config) -> Requirements:
    """What a learnware must be to be served with this configuration, without what the base model's folder says.

    Raises:
        InvalidSpecification: `market.vector_basis` is no parameter vector.
    """
    named = config.market.vector_basis
    return Requirements(
        base_model=config.base_model.served_id,
        revision=config.base_model.revision,
        max_rank=config.engine.max_rank,
        basis=Basis() if named is None else read_vector(Path(named).expanduser()).basis,
        reserved=frozenset((config.base_model.served_id, *config.router.auto_names)),
    )


def market_requirements(config: Config, base: Path) -> Requirements:
    """What a learnware must be to come into the configuration's market; `base` is the base model's folder."""
    return replace(requirements(config), layers=read_layers(base))


def fill_market(config: Config, folder: Path, base: Path, say: Callable[[str], None]) -> Path:
    """Begins the market in `folder` with `learnwares.folder` if it is new; returns its root.

    Raises:
        InvalidLearnware: one of these is refused.
    """
    market = Market(folder, market_requirements(config, base))
    market.seed(config.learnwares.path, say)
    return market.root

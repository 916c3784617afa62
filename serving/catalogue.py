"""The learnwares that a configuration serves, checked against it before anything is started."""

from pathlib import Path

from serving.config import Config
from specs.learnware import Learnware, load_learnwares
from specs.market.catalogue import CATALOGUE_FILE, read_catalogue
from specs.market.checks import Requirements, check_fits_market, check_learnware
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

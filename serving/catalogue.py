"""The learnwares that a configuration serves, checked against it before anything is started."""

from serving.config import Config
from specs.errors import InvalidLearnware
from specs.learnware import Learnware, load_learnwares


def served_learnwares(config: Config) -> list[Learnware]:
    """Every learnware of the configured folder, sorted by id.

    Raises:
        InvalidLearnware: one is invalid, is for another base model, has a rank that the engine's slots cannot hold, or
            an id that clients already use for something else.
        DuplicateLearnware: two with one id.
    """
    base = config.base_model.served_id
    learnwares = load_learnwares(config.learnwares.path, base)
    for learnware in learnwares:
        if learnware.rank > config.engine.max_rank:
            raise InvalidLearnware(
                f"learnware {learnware.id} has rank {learnware.rank}; engine.max_rank is {config.engine.max_rank}"
            )
        if learnware.id in (base, *config.router.auto_names):
            raise InvalidLearnware(f"a learnware's id must not be {learnware.id!r}: requests for that go elsewhere")
    return learnwares

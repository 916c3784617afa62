"""Checks the values of adapters beside the requests, for learnwares that no market has checked."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

from specs.adapter import check_adapter
from specs.errors import InvalidLearnware
from specs.market.catalogue import Catalogue
from specs.market.fitness import BROKEN

logger = logging.getLogger("ray.serve")


async def without_wrong_values(catalogue: Catalogue) -> AsyncIterator[Catalogue]:
    """Reads the weights of every learnware, one after the other in a thread, and yields, each time that one is found
    whose values are wrong (NaN, or all 0), the catalogue without it and those before it."""
    for entry in catalogue.entries:
        try:
            await asyncio.to_thread(check_adapter, entry.folder)
        except (InvalidLearnware, OSError) as error:
            logger.error("learnware %s is served no more: %s", entry.id, error)
            counts = Counter(catalogue.unserved) + Counter({BROKEN: 1})
            catalogue = Catalogue(
                catalogue.sequence, tuple(each for each in catalogue.entries if each != entry), dict(counts)
            )
            yield catalogue

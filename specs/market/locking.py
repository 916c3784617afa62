"""The market's lock: one process changes it at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from specs.errors import MarketBusy
from specs.files import file_lock
from specs.market.writing import MARKET, unwritable_as_error

LOCK_FILE = "market.lock"
"""File name of the lock in the market's folder."""


@contextmanager
def market_lock(root: Path, timeout_s: float) -> Iterator[None]:
    """Holds the lock, which the system drops when the process ends, however it ends.

    Raises:
        MarketBusy: another process holds it for more than `timeout_s` seconds.
        MarketUnwritable: the disk is full, or cannot be written; also when the body says so.
    """
    with unwritable_as_error(MARKET):
        try:
            held = file_lock(root / LOCK_FILE).acquire(timeout_s)
        except Timeout:
            raise MarketBusy(
                f"another process has been changing the market in {root} for more than {timeout_s:g} s; try again"
            ) from None
        with held:
            yield

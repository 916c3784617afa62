"""The adapters in the device's slots, as the scheduler knows them without asking the worker."""

from collections import OrderedDict
from collections.abc import Iterable


class SlotTable:
    """A table of S slots that evicts the least recently used adapter first. The worker's manager does the same with
    each batch (`serving.engine.adapters`), so after the same batches both hold the same adapters."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.loads = 0
        """Number of adapters that batches needed and no slot held."""
        self.hits = 0
        """Number of adapters that batches needed and a slot held."""
        self.pinned: set[int] = set()
        """Adapters that keep their slot once they have one."""
        self._used: OrderedDict[int, None] = OrderedDict()

    @property
    def residents(self) -> tuple[int, ...]:
        """Adapters that hold a slot, the least recently used first."""
        return tuple(self._used)

    @property
    def pinned_residents(self) -> set[int]:
        """Pinned adapters that hold a slot."""
        return self.pinned & self._used.keys()

    def use(self, batch: Iterable[int]) -> list[int]:
        """Gives every adapter of a batch a slot; residents are touched before others are loaded. Returns the adapters
        that had to be loaded.

        Raises:
            ValueError: the batch needs more slots than there are, or than pinned adapters leave.
        """
        wanted = set(batch)
        if len(wanted | self.pinned_residents) > self.slots:
            raise ValueError(
                f"a batch needs {len(wanted)} adapters, and there are {self.slots} slots, "
                f"{len(self.pinned_residents - wanted)} of them pinned to others"
            )
        missing = sorted(wanted - self._used.keys())
        for adapter in sorted(wanted & self._used.keys()):
            self._used.move_to_end(adapter)
        self.hits += len(wanted) - len(missing)
        self.loads += len(missing)
        for adapter in missing:
            if len(self._used) == self.slots:
                del self._used[next(one for one in self._used if one not in self.pinned)]
            self._used[adapter] = None
        return missing

    def remove(self, adapter: int) -> None:
        """Frees the adapter's slot, if it holds one."""
        self._used.pop(adapter, None)
        self.pinned.discard(adapter)

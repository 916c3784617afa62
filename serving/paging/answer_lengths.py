"""An estimate of a request's tokens before it runs, from the lengths of its tenant's recent answers."""

from collections import OrderedDict
from collections.abc import Hashable

MEMORY = 32
"""Number of answers over which a tenant's mean length is averaged exponentially: a few batches."""
KEPT = 1024
"""Number of tenants whose mean is kept, those that ended a request last."""


class AnswerLengths:
    """The mean length in tokens of each tenant's recent answers."""

    def __init__(self) -> None:
        self._means: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()
        self._all: tuple[float, int] = (0.0, 0)

    def note(self, tenant: Hashable, length: int) -> None:
        """Takes note of an answer of `length` tokens."""
        self._means[tenant] = _averaged(self._means.get(tenant, (0.0, 0)), length)
        self._means.move_to_end(tenant)
        if len(self._means) > KEPT:
            self._means.popitem(last=False)
        self._all = _averaged(self._all, length)

    def cost(self, tenant: Hashable, prompt: int, max_tokens: int) -> float:
        """Returns the tokens that a request is likely to take: those of its prompt, and of an answer of the tenant's
        mean length (of all tenants' while it has none, and of `max_tokens` while there is none), at most
        `max_tokens`."""
        mean, count = self._means.get(tenant, self._all)
        return prompt + (min(float(max_tokens), mean) if count else float(max_tokens))


def _averaged(before: tuple[float, int], length: int) -> tuple[float, int]:
    mean, count = before[0], min(before[1] + 1, MEMORY)
    return mean + (length - mean) / count, count

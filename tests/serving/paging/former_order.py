"""The waiting queue's order for requests of one tenant, written down once more, plainly: every choice looks at all that
waits. It knows no tenants, head starts or charges."""

from collections.abc import Iterable
from typing import NamedTuple

from serving.paging.queue import AGE_FACTOR, MEMORY, Running


class Waiting(NamedTuple):
    item: int
    adapter: int | None
    number: int
    since: float


class FormerOrder:
    def __init__(self, slots: int, patience: float) -> None:
        self.slots, self.patience = slots, patience
        self.waiting: dict[int, Waiting] = {}
        self.draining: dict[int, int] = {}
        self.active: set[int] = set()
        self.residents: set[int] = set()
        self.admitted_at: dict[int, float] = {}
        self.now = self.moved = self.mean_wait = self.usual_run = 0.0
        self.aged_since = float("-inf")
        self.admitted = self.ended = self.aged_out = self.number = 0

    def add(self, item: int, adapter: int | None, now: float) -> None:
        self.number += 1
        self.waiting[item] = Waiting(item, adapter, self.number, now)

    def remove(self, item: int) -> bool:
        return self.waiting.pop(item, None) is not None

    def aged(self, one: Waiting) -> bool:
        return one.since < self.aged_since

    def heads(self) -> dict[int | None, Waiting]:
        heads: dict[int | None, Waiting] = {}
        for one in sorted(self.waiting.values(), key=lambda one: one.number):
            heads.setdefault(one.adapter, one)
        return heads

    def idle(self) -> list[Waiting]:
        heads = self.heads().items()
        return [one for adapter, one in heads if adapter is not None and adapter not in self.active]

    def begin_step(self, now: float, running: Iterable[Running], residents: Iterable[int]) -> None:
        self.now = now
        remaining: dict[int, int] = {}
        for adapter, left in running:
            if adapter is not None:
                remaining[adapter] = max(left, remaining.get(adapter, 0))
        for adapter in self.active - set(remaining):
            self.moved = now
            if adapter in self.admitted_at:
                self.ended += 1
                ran = now - self.admitted_at.pop(adapter)
                self.usual_run += (ran - self.usual_run) / min(self.ended, MEMORY)
        self.active, self.residents = set(remaining), set(residents)
        self.aged_since = max(self.aged_since, now - max(self.patience, AGE_FACTOR * self.mean_wait))
        limit, free = max(1, self.slots // 2), max(0, self.slots - len(self.active))
        wanted = [one.number for one in self.idle() if self.aged(one)][: free + limit][free:]
        if not wanted:
            self.moved = now
        kept = [adapter for adapter in self.draining if adapter in self.active]
        if now - self.moved < self.usual_run:
            limit = len(kept)
        heads = self.heads()

        def cost(adapter: int) -> tuple[bool, int]:
            return bool(wanted) and adapter in heads and heads[adapter].number < wanted[0], remaining[adapter]

        others = sorted((adapter for adapter in remaining if adapter not in self.draining), key=cost)
        self.draining = dict(zip([*kept, *others][:limit], wanted, strict=False))

    def peek(self) -> int | None:
        may_run = []
        for adapter, one in self.heads().items():
            if adapter is None or adapter in self.active:
                if one.number < self.draining.get(adapter, one.number + 1):  # type: ignore[arg-type]
                    may_run.append((one, False))
            elif len(self.active) < self.slots:
                may_run.append((one, adapter not in self.residents))
        if not may_run:
            return None
        first = min(may_run, key=lambda one: (not self.aged(one[0]), one[1] and not self.aged(one[0]), one[0].number))
        return first[0].item

    def pop(self) -> int:
        one = self.waiting.pop(self.peek())  # type: ignore[arg-type]
        self.aged_out += self.aged(one)
        self.admitted += 1
        self.mean_wait += (max(0.0, self.now - one.since) - self.mean_wait) / min(self.admitted, MEMORY)
        if one.adapter is not None:
            self.active.add(one.adapter)
            self.admitted_at[one.adapter] = self.now
        return one.item

"""A simulated request, for `benchmarks.simulate`."""

from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Job:
    """A request: its adapter (None: the base model), when it comes, tokens of its prompt and of its answer; then what
    became of it, in seconds."""

    number: int
    adapter: int | None
    arrival: float
    prompt: int
    output: int
    prefilled: int = 0
    decoded: int = 0
    first: float = -1.0
    finished: float = -1.0
    ends: int = 0
    """How often it ended; anything but 1 is a mistake of the simulation."""

    @property
    def ttft(self) -> float:
        return self.first - self.arrival

    @property
    def tpot(self) -> float:
        return (self.finished - self.first) / max(1, self.output - 1)

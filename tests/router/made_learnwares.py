"""Learnwares of small tasks that are clearly different, made from texts alone; nothing lies on a disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from specs.answers.description import Answers
from specs.capability import Capability, ProbeScore
from specs.compositions import asked_and_declined
from specs.encoding.encoder import load_prompt_encoder
from specs.learnware import Learnware
from specs.off_task import Kind, OffTaskScore
from specs.specification import Specification, make_specification

LABEL = Answers("label", ("yes", "no"), (1.0, 1.0, 1.0))
TEXT = Answers("text", (), (12.0, 20.0, 40.0))

_ASKS: Mapping[str, tuple[str, str]] = {
    "colour": ("Which colour has the object?", "Tell me the colour of this thing."),
    "spam": ("Is this e-mail spam or not?", "Say whether the message below is junk."),
    "species": ("Which animal is described? Answer with one word.", "Name the species that this is about."),
    "verdict": ("Did the court decide for the plaintiff or the defendant?", "Who won this lawsuit?"),
    "recipe": ("Is this dish vegetarian: yes or no?", "May a vegetarian eat this meal?"),
}
_MATERIALS: Mapping[str, str] = {
    "colour": "Object {n} is a painted chair made of wood that stands in room {m} of the old museum.",
    "spam": "Dear customer, your parcel {n} waits. Click http://parcel{m}.example to pay the fee of ${m} today!",
    "species": "It has {m} stripes, hunts at night in the rain forest and eats about {n} fish in a week.",
    "verdict": "In case {n} the tenant sued the landlord over {m} months of rent, and the appeal was dismissed.",
    "recipe": "Fry {m} onions in butter, add {n} g of lentils and a little stock, and let it simmer for an hour.",
}
TASKS = tuple(_ASKS)


def ask(task: str, reworded: bool = False) -> str:
    return _ASKS[task][reworded]


def material(task: str, number: int) -> str:
    return _MATERIALS[task].format(n=number, m=number * 7 % 11 + 2)


def request(task: str, number: int = 101) -> str:
    """A request of the task with material that is in no specification."""
    return f"{ask(task)}\n{material(task, number)}"


def specification_of(task: str, answers: Answers = LABEL, rows: int = 24) -> Specification:
    prompts = [request(task, number) for number in range(rows)]
    examples = [f"{ask(task, reworded=True)}\n{material(task, 50)}"]
    asked, declined = asked_and_declined(prompts, examples, answers)
    texts = {"whole": prompts, "examples": examples, "asked": asked}
    return make_specification(texts, load_prompt_encoder(), 20, answers, declined)


def learnware(
    name: str,
    specification: Specification,
    tasks: Sequence[str],
    capability: Capability | None = None,
    domain: str = "d",
) -> Learnware:
    return Learnware(
        id=name,
        version=1,
        name=name,
        description="A test's.",
        domain=domain,
        tasks=tuple(tasks),
        base_model="base",
        languages=("en",),
        licence="Apache-2.0",
        rank=4,
        folder=Path("nowhere"),
        specification=specification,
        capability=capability,
    )


def probe(
    probability: float, base: float = 0.3, rows: int = 96, at_least_base: float = 0.9, likelihood: float = -1.0
) -> ProbeScore:
    return ProbeScore(rows, probability, probability, likelihood, at_least_base, base, base, -2.0)


def capability(
    probes: Mapping[str, ProbeScore] | None = None, elsewhere: Mapping[Kind, OffTaskScore] | None = None
) -> Capability:
    """Scores by task (<domain>-<task>), and by kind of request elsewhere."""
    return Capability("base", "0", "p", dict(probes or {}), dict(elsewhere or {}), "e")


HARMLESS = {kind: OffTaskScore(4000, 0.0, 0.0, 0) for kind in Kind}
"""Measured to change nothing off its task: a loss of about 0."""

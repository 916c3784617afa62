"""Free-form requests that want sentences, for `benchmarks.harm`: users' questions, our own, other asks on learnwares'
material, reworded asks, and rows of tasks whose answers are sentences."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import questions as sets
from benchmarks.common.cases import Starters
from benchmarks.common.questions import Half
from benchmarks.common.tasks import CHAT, read_prompts, read_questions, task_of

FINANCE_SAMPLE = 300
"""So many of the 1,500 unlabelled questions of private investors are taken."""
ROWS = 200
"""So many test rows of each task in sentences are taken."""
ROWS_A_WORDING = 6
SEED = 11
WITH_REFERENCE = ("finance/fiqa_qa", CHAT)
"""Tasks in sentences that no starter answers; the starters' own tasks are added to them."""


class FreeForm(NamedTuple):
    """A free-form request. `row` is its number in the test split of `task` (<domain>-<task>), where it comes from
    one."""

    set: str
    prompt: str
    task: str | None = None
    row: int | None = None


def read_requests(starters: Starters, data: Path, prompts: Path | None, half: Half = "report") -> list[FreeForm]:
    """Returns all free-form requests, each prompt once; texts written for this project come from one half.

    Raises:
        InvalidInput: a file is not there.
    """
    found: dict[str, FreeForm] = {}
    for one in (*_questions(prompts, half), *_asks(starters, data, half), *_rows(starters, data)):
        found.setdefault(one.prompt.strip(), one)
    return list(found.values())


def _questions(prompts: Path | None, half: Half) -> Iterator[FreeForm]:
    if prompts is not None:
        labelled = sets.read_users_questions(prompts)
        yield from (FreeForm("users", one.prompt) for one in labelled if one.half == half)
        known = {one.prompt for one in labelled}
        lines = (prompts / "finance_questions.txt").read_text(encoding="utf-8").split("\n")
        others = [line for line in lines if line and line not in known]
        sample = random.Random(SEED).sample(others, min(FINANCE_SAMPLE, len(others)))
        yield from (FreeForm("finance_questions", line) for line in sample)
    yield from (FreeForm("own", one.prompt) for one in sets.read_free_questions() if one.half == half)
    yield from (FreeForm("harm_prompts", one.prompt) for one in sets.read_harm_prompts() if one.half == half)
    for name in ("general", "general_later"):
        yield from (FreeForm("everyday", question) for question in read_questions(name))


def _asks(starters: Starters, data: Path, half: Half) -> Iterator[FreeForm]:
    draw = random.Random(SEED)
    rows = {name: read_prompts(data, task_of(name), "test").whole for name in starters.ids}
    for ask in (one for one in sets.read_other_asks() if one.half == half):
        for name in filter(ask.fits, starters.labelling):
            yield FreeForm("other_asks", ask.around(sets.material_of(name, draw.choice(rows[name]))))
    for name, wordings in sets.read_rewordings().items():
        if name not in starters.in_sentences:
            continue
        for wording in (one for one in wordings if one.half == half):
            for row in draw.sample(rows[name], min(ROWS_A_WORDING, len(rows[name]))):
                yield FreeForm("reworded", wording.around(sets.material_of(name, row)))


def _rows(starters: Starters, data: Path) -> Iterator[FreeForm]:
    tasks = [task_of(name) for name in starters.ids if name in starters.in_sentences]
    for task in (*tasks, *WITH_REFERENCE):
        name = task.replace("/", "-", 1)
        prompts = read_prompts(data, task, "test", ROWS).whole
        yield from (FreeForm(name, prompt, name, row) for row, prompt in enumerate(prompts))


def sample_of(requests: Sequence[FreeForm], count: int) -> list[FreeForm]:
    return list(requests) if count >= len(requests) else random.Random(SEED).sample(list(requests), count)

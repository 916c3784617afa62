"""Labelled requests for the selection benchmarks: the starters' test rows as they are, reworded and wrapped, other asks
on their material, follow-ups, users' questions and everyday work.

Everything goes through `router.request.read_request`, as a client's body does. Rows come from the test split when
figures are reported, and from the train split when thresholds are looked at; texts of our own from the half of that
name (`benchmarks.common.questions`).
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from benchmarks.common import questions as sets
from benchmarks.common.questions import FreeText, Half
from benchmarks.common.tasks import CHAT, OTHER_CHOICES, chat_domain, read_prompts, read_questions, task_of
from router.request import read_request
from router.turn import Conversation
from specs.learnware import Learnware

SEED = 7
ROWS_A_WORDING = 8
ROWS_AN_ASK = 2
ROWS_A_FOLLOW_UP = 2
BARE_ROWS = 60
POOL_ROWS = 4
"""So many rows of each starter are among the requests that are wrapped or given system prompts."""
WRAPPED = 40
"""Each wrapper is put around so many requests."""
SYSTEM_ROWS = 40
"""Each system prompt that holds an instruction is tried with so many rows."""
SHORT = 4
"""A short run takes one case in so many."""
NEUTRAL_SHOWN = 4
GENERAL = "general"

CHANGES: Mapping[str, Callable[[str], str]] = {
    "answer_cue": lambda text: f"{text}\nAnswer:",
    "lower_case": sets.lower_case,
    "three_typos": sets.three_typos,
    "please_help": lambda text: f"Please help me with this. {text}",
    "thanks": lambda text: f"{text} Thanks!",
}
"""Changes that people make to a request without asking for anything else, by name."""


class Case(NamedTuple):
    """A request with its label. `asks` is the learnware that answers it (None: the base model); tables order a group's
    cases by `key`. `beside` is the same request without what was put around it, or the conversation one turn before."""

    group: str
    conversation: Conversation
    asks: str | None
    domain: str
    key: str
    beside: Conversation | None = None


class Starters(NamedTuple):
    """The learnwares whose rows are available, and the subset that answers in sentences."""

    ids: tuple[str, ...]
    in_sentences: frozenset[str]

    @property
    def labelling(self) -> tuple[str, ...]:
        return tuple(name for name in self.ids if name not in self.in_sentences)


def domain_of(learnware_id: str) -> str:
    return learnware_id.rpartition("/")[2].split("-", 1)[0]


def conversation_of(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Returns the conversation that the router reads from a chat request with these messages."""
    body = json.dumps({"model": "auto", "messages": list(messages)}).encode()
    return read_request(body).prompts[0]


def said(*turns: str, system: str = "") -> Conversation:
    """Returns the conversation of a chat request with these user's turns and the assistant's answers between them."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "…"}]
    return conversation_of(messages[:-1])


def make_cases(starters: Starters, data: Path, prompts: Path | None, half: Half, short: bool = False) -> list[Case]:
    """Returns all cases. `data` is the folder of the tasks' rows; `prompts`, if given, that of the users' questions;
    `short` keeps about a fourth of the cases.

    Raises:
        InvalidInput: a file is not there.
    """
    split = "test" if half == "report" else "train"
    limit = None if half == "report" and not short else 240 // (SHORT if short else 1)
    rows = {name: read_prompts(data, task_of(name), split, limit).whole for name in starters.ids}
    questions = list(_questions(prompts, half))
    asked = [case for case in questions if case.asks is not None]
    pool = asked + [case for case in _whole(rows) if case.conversation.turns[0] in _first(rows[case.key], POOL_ROWS)]
    groups = [
        _whole(rows),
        _bare(starters, rows),
        _reworded(rows, half),
        _other_asks(starters, rows, half),
        _follow_ups(starters, rows, half),
        questions,
        _everyday(data, split, limit),
        _neutral(pool, half),
        _instructed(rows, half),
        _changed(pool),
        _wrapped(pool, half),
        _foreign(half),
    ]
    cases = [case for group in groups for case in group]
    if not short:
        return cases
    kept: dict[tuple[str, str], int] = {}
    shortened = []
    for case in cases:
        number = kept.get((case.group, case.key), 0)
        kept[case.group, case.key] = number + 1
        if number % SHORT == 0:
            shortened.append(case)
    return shortened


def _first(rows: Sequence[str], count: int) -> set[str]:
    return {row.strip() for row in rows[:count]}


def _whole(rows: Mapping[str, Sequence[str]]) -> list[Case]:
    return [Case("whole", said(row), name, domain_of(name), name) for name, some in rows.items() for row in some]


def _bare(starters: Starters, rows: Mapping[str, Sequence[str]]) -> Iterator[Case]:
    """Makes cases of material without any ask. Nobody asked for anything, so they are reported and have no aim."""
    for name in starters.labelling:
        for row in rows[name][:BARE_ROWS]:
            yield Case("bare", said(sets.material_of(name, row).text), name, domain_of(name), name)


def _reworded(rows: Mapping[str, Sequence[str]], half: Half) -> Iterator[Case]:
    draw = random.Random(SEED)
    for name, wordings in sets.read_rewordings().items():
        if name not in rows:
            continue
        for wording in (one for one in wordings if one.half == half):
            for row in draw.sample(list(rows[name]), min(ROWS_A_WORDING, len(rows[name]))):
                text = wording.around(sets.material_of(name, row))
                yield Case("reworded", said(text), name, domain_of(name), name)


def _other_asks(starters: Starters, rows: Mapping[str, Sequence[str]], half: Half) -> Iterator[Case]:
    draw = random.Random(SEED)
    for ask in (one for one in sets.read_other_asks() if one.half == half):
        for name in filter(ask.fits, starters.labelling):
            for row in draw.sample(list(rows[name]), min(ROWS_AN_ASK, len(rows[name]))):
                text = ask.around(sets.material_of(name, row))
                yield Case("other_ask", said(text), None, domain_of(name), (ask.before + ask.after).strip()[:60])


def _follow_ups(starters: Starters, rows: Mapping[str, Sequence[str]], half: Half) -> Iterator[Case]:
    draw = random.Random(SEED)
    follow_ups = sets.read_follow_ups()
    for name in starters.ids:
        group = "explain" if name in starters.labelling else "explain_sentences"
        for ask in (one for one in follow_ups.explain if one.half == half):
            for row in draw.sample(list(rows[name]), ROWS_A_FOLLOW_UP):
                yield Case(group, said(row, ask.text), None, domain_of(name), ask.text[:60], said(row))
        for same in (one for one in follow_ups.same_task if one.half == half):
            for row, item in _pairs(draw, rows[name]):
                text = same.around(sets.material_of(name, item))
                yield Case("same_task", said(row, text), name, domain_of(name), name, said(row))
        for topic in (one for one in follow_ups.new_topic if one.half == half):
            row = draw.choice(list(rows[name]))
            asks = None if topic.asks == "none" else topic.asks
            if asks is None or asks in rows:
                yield Case("new_topic", said(row, topic.text), asks, topic.domain, topic.text[:60])
    for long in (one for one in follow_ups.long_conversations if one.half == half and one.first in rows):
        turns = [draw.choice(list(rows[long.first]))]
        for turn in long.turns:
            turns.append(turn.text)
            asks = None if turn.asks == "none" else turn.asks
            yield Case("long_conversation", said(*turns), asks, turn.domain, turn.text[:60])


def _pairs(draw: random.Random, rows: Sequence[str]) -> Iterator[tuple[str, str]]:
    for _ in range(ROWS_A_FOLLOW_UP):
        first, second = draw.sample(list(rows), 2)
        yield first, second


def _questions(prompts: Path | None, half: Half) -> Iterator[Case]:
    """Makes cases of labelled questions: users' (`users`) and the project's (`own`)."""
    users = [] if prompts is None else sets.read_users_questions(prompts)
    for group, questions in (
        ("users", [(one.prompt, one.label.asks, one.label.domain) for one in users if one.half == half]),
        ("own", [(one.prompt, one.asks, one.domain) for one in sets.read_free_questions() if one.half == half]),
    ):
        for prompt, asks, domain in questions:
            yield Case(group, said(prompt), None if asks == "none" else asks, domain, asks)


def _everyday(data: Path, split: str, limit: int | None) -> Iterator[Case]:
    """Makes cases of work in no learnware's domain. Rows of `general_chat` that ask a domain's question are left
    out."""
    for row in read_prompts(data, CHAT, split, limit).whole:
        if chat_domain(row) is None:
            yield Case("everyday", said(row), None, GENERAL, "general_chat")
    for name in ("general", "general_later"):
        for question in read_questions(name):
            yield Case("everyday", said(question), None, GENERAL, "our own")
    for task in OTHER_CHOICES:
        for row in read_prompts(data, task, split, limit).whole:
            yield Case("multiple_choice", said(row), None, GENERAL, task)


def _neutral(pool: Sequence[Case], half: Half) -> Iterator[Case]:
    shown = [one.text for one in sets.read_system_prompts().neutral if one.half == half][:NEUTRAL_SHOWN]
    for number, system in enumerate(shown, 1):
        for case in pool:
            around = said(*case.conversation.turns, system=system)
            yield case._replace(group="neutral_system", conversation=around, key=str(number), beside=case.conversation)


def _instructed(rows: Mapping[str, Sequence[str]], half: Half) -> Iterator[Case]:
    """Makes cases whose instruction stands in the system prompt, with bare material as the user's turn."""
    for one in sets.read_system_prompts().with_ask:
        starter = one.starter
        if one.half != half or starter is None or starter not in rows:
            continue
        for row in rows[starter][:SYSTEM_ROWS]:
            found = said(sets.material_of(starter, row).text, system=one.text)
            yield Case("system_instruction", found, starter, domain_of(starter), starter)


def _changed(pool: Sequence[Case]) -> Iterator[Case]:
    for name, change in CHANGES.items():
        for case in pool:
            kind = "changed" if case.group in ("users", "own") else "changed_row"
            changed = said(change(case.conversation.turns[0]))
            yield case._replace(group=kind, conversation=changed, key=name, beside=case.conversation)


def _wrapped(pool: Sequence[Case], half: Half) -> Iterator[Case]:
    """Makes cases of requests as agents, retrieval and chat front ends wrap them; the group names what is expected."""
    draw = random.Random(SEED)
    wrappers = sets.read_wrappers()
    for wrapper in (one for one in wrappers.wrappers if one.half == half):
        for number, case in enumerate(draw.sample(list(pool), min(WRAPPED, len(pool)))):
            request = case.conversation.turns[0]
            messages = wrapper.around(request, answer="As said before.", passages=wrappers.passages_text(number))
            found = conversation_of(messages)
            yield case._replace(
                group=f"wrapped_{wrapper.expect}", conversation=found, key=wrapper.name, beside=case.conversation
            )


def _foreign(half: Half) -> Iterator[Case]:
    for one in sets.read_wrappers().other_languages:
        if one.half == half:
            yield Case("other_language", said(one.prompt), None, one.domain, one.language)


def starters_of(learnwares: Sequence[Learnware]) -> Starters:
    """Returns the learnwares' ids, and those of them that answer in sentences: the ones whose specifications say so,
    and the starters that are known to."""
    answers = {one.id: one.specified.answers for one in learnwares}
    stated = (name for name, found in answers.items() if found is not None and found.in_sentences)
    known = (name for name in get_args(FreeText) if name in answers)
    return Starters(tuple(answers), frozenset([*stated, *known]))


def prompts_folder(data: Path, named: Path | None) -> Path | None:
    """Returns the folder of users' questions: the named one, else `prompts` beside the task data if it exists."""
    if named is not None:
        return named
    beside = data.parent / "prompts"
    return beside if beside.is_dir() else None

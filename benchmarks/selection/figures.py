"""Figures of the choice: shares, with their intervals, of the cases of `benchmarks.common.cases` that are chosen for
rightly."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.common.cases import GENERAL, Case, Starters, domain_of
from benchmarks.common.choosers import Chooser
from benchmarks.common.statistics import Share, share
from router.selection import Choice
from router.turn import Conversation

NEIGHBOURS = (
    frozenset({"finance-tfns", "finance-fiqa_sa"}),
    frozenset({"mathematics-gsm8k_first_operation", "mathematics-svamp_operation"}),
)
"""Pairs of starters whose asks and labels are the same, so that other words for one ask often fit both."""
MISSES = 8
"""So many missed cases of each figure are shown."""
SHOWN_CHARS = 160


class ChoiceOutcome(NamedTuple):
    """A case and the choice for it; `before` is the choice for `case.beside`."""

    case: Case
    choice: Choice
    before: Choice | None

    @property
    def chosen(self) -> str | None:
        return self.choice.learnware_id

    @property
    def is_right(self) -> bool:
        return self.chosen == self.case.asks

    @property
    def is_kept(self) -> bool:
        return self.before is not None and self.chosen == self.before.learnware_id


def outcomes_of(cases: Sequence[Case], chooser: Chooser) -> list[ChoiceOutcome]:
    before: dict[Conversation, Choice] = {}

    def choose(conversation: Conversation | None) -> Choice | None:
        if conversation is not None and conversation not in before:
            before[conversation] = chooser.choose(conversation)
        return None if conversation is None else before[conversation]

    return [ChoiceOutcome(case, chooser.choose(case.conversation), choose(case.beside)) for case in cases]


class ChoiceFigures:
    """Shares by name, with the cases that count against each."""

    def __init__(self, outcomes: Sequence[ChoiceOutcome], starters: Starters) -> None:
        self.shares: dict[str, Share] = {}
        self.misses: dict[str, list[ChoiceOutcome]] = {}
        self._outcomes = outcomes
        self._starters = starters
        self._rows()
        self._asks()
        self._conversations()
        self._questions()
        self._surroundings()

    def flat(self) -> dict[str, float]:
        return {name: one.value for name, one in self.shares.items() if one.rows}

    def missed(self, name: str) -> list[dict[str, object]]:
        """Returns some cases that count against a figure, spread over all of them."""
        found = self.misses[name]
        picked = [found[number * len(found) // MISSES] for number in range(MISSES)] if len(found) > MISSES else found
        return [_shown(one) for one in picked]

    def _of(self, *groups: str) -> list[ChoiceOutcome]:
        return [one for one in self._outcomes if one.case.group in groups]

    def _add(
        self, name: str, outcomes: Iterable[ChoiceOutcome], holds: Callable[[ChoiceOutcome], bool], bad: bool = False
    ) -> None:
        """Adds the share of outcomes for which `holds`; with `bad` these are the ones that count against it."""
        listed = list(outcomes)
        verdicts = [bool(holds(one)) for one in listed]
        self.shares[name] = share(verdicts)
        self.misses[name] = [one for one, verdict in zip(listed, verdicts, strict=True) if verdict == bad]

    def _labels(self, one: ChoiceOutcome) -> bool:
        return one.chosen is not None and one.chosen not in self._starters.in_sentences

    def _rows(self) -> None:
        whole, bare = self._of("whole"), self._of("bare")
        self._add("task_accuracy", whole, lambda one: one.is_right)
        self._add("task_recognised", whole, _recognised)
        self._add("domain_accuracy", whole, _in_domain)
        self._add("wrong_domain_whole", whole, _wrong_domain, bad=True)
        self._add("in_domain_to_base", whole, _to_base, bad=True)
        for name in self._starters.ids:
            if name in self._starters.in_sentences:
                own = [one for one in whole if one.case.asks == name]
                self._add(f"task_accuracy_{_short(name)}", own, lambda one: one.is_right)
        self._add("task_accuracy_bare", bare, lambda one: one.is_right)
        self._add("domain_accuracy_bare", bare, _in_domain)
        self._add("in_domain_to_base_bare", bare, _to_base)

    def _asks(self) -> None:
        reworded = self._of("reworded")
        labelling = [one for one in reworded if one.case.asks not in self._starters.in_sentences]
        sentences = [one for one in reworded if one.case.asks in self._starters.in_sentences]
        self._add("reworded_right_task", reworded, lambda one: one.is_right)
        self._add("reworded_right_or_neighbour", reworded, _right_or_neighbour)
        self._add("reworded_right_task_labelling", labelling, lambda one: one.is_right)
        self._add("reworded_right_task_sentences", sentences, lambda one: one.is_right)
        self._add("other_ask_to_label", self._of("other_ask"), self._labels, bad=True)
        self._add("other_ask_to_base", self._of("other_ask"), _to_base)

    def _conversations(self) -> None:
        explain = [one for one in self._of("explain") if one.before is not None and self._labels_choice(one.before)]
        self._add("explanation_stays_with_label", explain, self._labels, bad=True)
        held = [one for one in self._of("explain_sentences") if one.before is not None and one.before.learnware_id]
        self._add("explanation_stays_with_sentences", held, lambda one: one.is_kept)
        same = [one for one in self._of("same_task") if one.before is not None and one.before.learnware_id]
        self._add("same_task_stays", same, lambda one: one.is_kept)
        self._add("new_topic_right", self._of("new_topic"), lambda one: one.is_right)
        self._add("long_conversation_turns_right", self._of("long_conversation"), lambda one: one.is_right)

    def _labels_choice(self, choice: Choice) -> bool:
        return choice.learnware_id is not None and choice.learnware_id not in self._starters.in_sentences

    def _questions(self) -> None:
        for suffix, groups in (("", ("users", "own")), ("_users", ("users",)), ("_own", ("own",))):
            questions = self._of(*groups)
            asked = [one for one in questions if one.case.asks is not None]
            self._add(f"questions_get_theirs{suffix}", asked, lambda one: one.is_right)
            for name in sorted(self._starters.in_sentences):
                own = [one for one in asked if one.case.asks == name]
                self._add(f"questions_get_theirs_{_short(name)}{suffix}", own, lambda one: one.is_right)
            none = [one for one in questions if one.case.asks is None]
            self._add(f"questions_of_none_to_base{suffix}", none, _to_base)
            self._add(f"questions_wrong_domain{suffix}", questions, _wrong_domain, bad=True)
            self._add(f"questions_to_label{suffix}", questions, self._wrong_label, bad=True)
            general = [one for one in questions if one.case.domain == GENERAL]
            self._add(f"general_questions_to_base{suffix}", general, _to_base)
        everyday = self._of("everyday") + [one for one in self._of("users", "own") if one.case.domain == GENERAL]
        self._add("everyday_to_base", everyday, _to_base)
        for key, name in (("general_chat", "general_chat_to_base"), ("our own", "own_everyday_to_base")):
            self._add(name, [one for one in self._of("everyday") if one.case.key == key], _to_base)
        self._add("multiple_choice_to_base", self._of("multiple_choice"), _to_base)
        self._add("other_language_to_base", self._of("other_language"), _to_base)

    def _wrong_label(self, one: ChoiceOutcome) -> bool:
        """Tells whether a question is answered with a label that it does not ask for."""
        return self._labels(one) and not one.is_right

    def _surroundings(self) -> None:
        neutral = [one for one in self._of("neutral_system") if one.before is not None]
        accepted = [one for one in neutral if one.before and one.before.learnware_id]
        self._add("neutral_system_kept", accepted, lambda one: one.is_kept)
        for key in dict.fromkeys(one.case.key for one in accepted):
            of_one = [one for one in accepted if one.case.key == key]
            self._add(f"neutral_system_{key}_kept", of_one, lambda one: one.is_kept)
        self._add("system_instruction_found", self._of("system_instruction"), lambda one: one.is_right)
        for group, suffix in (("changed", ""), ("changed_row", "_rows")):
            accepted = [one for one in self._of(group) if one.before is not None and one.before.learnware_id]
            for key in dict.fromkeys(one.case.key for one in accepted):
                of_one = [one for one in accepted if one.case.key == key]
                self._add(f"lost_{key}{suffix}", of_one, lambda one: not one.is_kept, bad=True)
        for expect, name in (("hold", "wrapper_held"), ("hold_or_base", "retrieval_held")):
            wrapped = [one for one in self._of(f"wrapped_{expect}") if one.before and one.before.learnware_id]
            self._add(name, wrapped, lambda one: one.is_kept)
        self._add(
            "retrieval_other_learnware",
            self._of("wrapped_hold_or_base"),
            lambda one: one.chosen is not None and not one.is_kept,
            bad=True,
        )
        self._add("interface_task_to_base", self._of("wrapped_base"), _to_base)


def by_key(outcomes: Sequence[ChoiceOutcome], group: str, holds: Callable[[ChoiceOutcome], bool]) -> dict[str, Share]:
    """Returns the share of a group's outcomes for which `holds`, by the cases' key."""
    verdicts: dict[str, list[bool]] = {}
    for one in outcomes:
        if one.case.group == group:
            verdicts.setdefault(one.case.key, []).append(holds(one))
    return {key: share(some) for key, some in verdicts.items()}


def time_choices(choose: Callable[[str], object], texts: Sequence[str]) -> dict[str, float]:
    """Returns the milliseconds of one choice, the median and the 99th percentile: by the clock, and of processor
    time."""
    taken = np.empty((len(texts), 2))
    for row, text in enumerate(texts):
        started, busy = time.perf_counter(), time.thread_time()
        choose(text)
        taken[row] = time.perf_counter() - started, time.thread_time() - busy
    (p50, cpu_p50), (p99, cpu_p99) = np.quantile(taken * 1000, [0.5, 0.99], axis=0)
    return {"p50": float(p50), "p99": float(p99), "cpu_p50": float(cpu_p50), "cpu_p99": float(cpu_p99)}


def worst(tables: Mapping[str, Share]) -> list[tuple[str, Share]]:
    """Returns a table's rows, the smallest shares first."""
    return sorted(tables.items(), key=lambda pair: (pair[1].value, pair[0]))


def _to_base(one: ChoiceOutcome) -> bool:
    return one.chosen is None


def _in_domain(one: ChoiceOutcome) -> bool:
    return one.chosen is not None and domain_of(one.chosen) == one.case.domain


def _wrong_domain(one: ChoiceOutcome) -> bool:
    return one.chosen is not None and domain_of(one.chosen) != one.case.domain


def _recognised(one: ChoiceOutcome) -> bool:
    """Tells whether the likeliest task is the right one, whichever learnware then answers it best."""
    tasks = [name for name, _ in one.choice.probabilities]
    return bool(tasks) and one.case.asks in tasks[0].split("+")


def _right_or_neighbour(one: ChoiceOutcome) -> bool:
    return one.is_right or any({one.chosen, one.case.asks} <= pair for pair in NEIGHBOURS)


def _short(learnware_id: str) -> str:
    return learnware_id.rpartition("/")[2].partition("-")[2] or learnware_id


def _shown(one: ChoiceOutcome) -> dict[str, object]:
    text = one.case.conversation.turns[-1] if one.case.conversation.turns else ""
    best = one.choice.candidates[0] if one.choice.candidates else None
    return {
        "text": text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS // 2]} … {text[-SHOWN_CHARS // 2 :]}",
        "key": one.case.key,
        "asks": one.case.asks,
        "chosen": one.chosen,
        "before": None if one.before is None else one.before.learnware_id,
        "reason": one.choice.reason,
        "score": round(one.choice.score, 3),
        "best": None if best is None else best.learnware_id,
        "likeliest": [(name, round(p, 3)) for name, p in one.choice.probabilities[:2]],
    }

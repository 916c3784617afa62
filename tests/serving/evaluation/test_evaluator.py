"""Comparisons from their arrival to the verdicts in the store, over a real file and a judge on a port."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.decisions.store import DecisionStore
from serving.evaluation import evaluator as module
from serving.evaluation.evaluator import Evaluator
from serving.evaluation.judge import Judge
from tests.serving.decisions.test_store import replica_half
from tests.serving.evaluation.judging import JudgeServer, chat, judge_server
from tests.serving.evaluation.parts import CANARY, part, side


async def run(work: Callable[[], Any]) -> Any:
    return work()


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server() as found:
        found.prefers(lambda a, b: len(a) > len(b))
        yield found


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    return DecisionStore(tmp_path / "d.sqlite", 100, 1e6)


@pytest.fixture
async def evaluator(server: JudgeServer, store: DecisionStore) -> AsyncIterator[Evaluator]:
    judge = Judge(server.settings(), None, lambda text: text)
    found = Evaluator(store.comparisons, judge, run, pauses_s=(0.01, 0.01))
    found.start()
    yield found
    await found.close()
    await judge.close()


def counted(store: DecisionStore, source: str = "judge") -> list[tuple[str, str, int, int, int]]:
    found = store.comparisons.pairs(source, None, None, None)
    return [(one.first, one.second, one.wins, one.ties, one.losses) for one in found]


async def judged(store: DecisionStore) -> None:
    for _ in range(500):
        if not store.comparisons.counts(None, None, None).waiting:
            return
        await asyncio.sleep(0.01)
    pytest.fail("comparisons wait on")


async def test_the_judge_decides(evaluator: Evaluator, store: DecisionStore) -> None:
    for number, answer in enumerate(["longer", "x", "also longer"]):
        assert await evaluator.take(part(number, side("finance/x", "yes"), side("base", answer)))
    await judged(store)
    assert counted(store) == [("finance/x", "base", 2, 0, 1)]
    (pair,) = store.comparisons.pairs("judge", None, None, None)
    assert (pair.first_version, pair.second_version, pair.tokens) == ("finance/x@abc", None, (3.0, 3.0))


async def test_what_needs_no_judge_is_not_asked(
    evaluator: Evaluator, store: DecisionStore, server: JudgeServer
) -> None:
    own = side("finance/x")
    for number, other in enumerate(
        [side("base", " yes\n"), side("base", "", 500), side("base", "  "), side("base", "no", None)]
    ):
        await evaluator.take(part(number, own, other))
    await evaluator.take(part(8, side("finance/x", "", 502), side("base", "no")))
    await evaluator.take(part(9, side("finance/x", "", 502), side("base", "")))
    assert counted(store) == [("finance/x", "base", 1, 2, 3)]
    assert server.bodies == []


async def test_of_two_versions_the_canary_is_the_second(evaluator: Evaluator, store: DecisionStore) -> None:
    await evaluator.take(part(1, side(CANARY, "the longest"), side("finance/x", "no"), kind="canary"))
    await evaluator.take(part(2, side("finance/x", "no"), side(CANARY, "longer"), kind="canary"))
    await judged(store)
    assert counted(store) == [("finance/x", CANARY, 2, 0, 0)]
    assert [one["judge"] for one in store.comparisons.of_canary(f"{CANARY}@abc")] == [1.0, 1.0]


async def test_a_comparison_that_comes_twice_counts_once(evaluator: Evaluator, store: DecisionStore) -> None:
    sent = part(1, side("finance/x", "yes"), side("base", "longer"))
    await evaluator.take(sent)
    await evaluator.take(sent)
    await judged(store)
    assert counted(store) == [("finance/x", "base", 1, 0, 0)]
    await evaluator.take({**sent, "time": 2000.0, "sides": sent["sides"][::-1]})  # a newer request of the same id
    await judged(store)
    assert counted(store) == [("base", "finance/x", 0, 0, 1)]


async def test_an_answer_that_is_no_verdict_is_counted(
    evaluator: Evaluator, store: DecisionStore, server: JudgeServer
) -> None:
    server.says = lambda _: chat("I cannot say.")
    await evaluator.take(part(1, side("finance/x", "yes"), side("base", "no")))
    await judged(store)
    assert counted(store) == []
    assert store.comparisons.counts(None, None, None).failed == 1
    assert len(server.bodies) == 1


async def test_a_judge_that_is_down_is_asked_again(
    evaluator: Evaluator, store: DecisionStore, server: JudgeServer
) -> None:
    prefers = server.says
    server.says = lambda shown: (503, b"") if len(server.bodies) < 3 else prefers(shown)
    await evaluator.take(part(1, side("finance/x", "yes"), side("base", "longer")))
    await judged(store)
    assert counted(store) == [("finance/x", "base", 1, 0, 0)]
    server.says = lambda _: (500, b"")
    await evaluator.take(part(2, side("finance/x", "yes"), side("base", "longer")))
    await judged(store)
    assert store.comparisons.counts(None, None, None).failed == 1
    assert counted(store) == [("finance/x", "base", 1, 0, 0)]


async def test_what_does_not_fit_is_counted_and_nobody_waits(
    evaluator: Evaluator, store: DecisionStore, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.delay_s = 0.3
    evaluator._queue = asyncio.Queue(2)
    for number in range(module.AT_A_TIME):
        await evaluator.take(part(number, side("finance/x", "yes"), side("base", "no")))
    await asyncio.sleep(0.05)  # the workers hold these
    started = asyncio.get_running_loop().time()
    for number in range(10, 14):
        assert await evaluator.take(part(number, side("finance/x", "yes"), side("base", "no")))
    assert asyncio.get_running_loop().time() - started < 0.3
    assert store.comparisons.counts(None, None, None).failed >= 2


async def test_a_right_answer_decides_whenever_it_comes(evaluator: Evaluator, store: DecisionStore) -> None:
    store.add([replica_half(1), replica_half(2)])
    store.feedback("alice", "request-1", {"answer": "No."}, "alice")  # before
    await evaluator.take(part(1, side("finance/x", "yes"), side("base", "no")))
    await evaluator.take(part(2, side("finance/x", "yes"), side("base", "no")))
    assert counted(store, "reference") == [("finance/x", "base", 1, 0, 0)]
    await evaluator.reference("alice", "request-2", "yes")  # after
    await evaluator.reference("alice", "request-77", "yes")
    assert counted(store, "reference") == [("finance/x", "base", 1, 0, 1)]


async def test_right_answers_need_no_judge(store: DecisionStore) -> None:
    alone = Evaluator(store.comparisons, None, run)
    alone.start()
    await alone.take(part(1, side("finance/x", "yes"), side("base", "yes")))
    await alone.take(part(2, side("finance/x", "yes"), side("base", "", 500)))
    # a judge alone tells equal from unequal answers: without it there is no verdict on either
    assert counted(store) == []
    assert store.comparisons.counts(None, None, None)[:2] == (0, 0)
    await alone.reference("alice", "request-2", "no")
    assert counted(store, "reference") == [("finance/x", "base", 0, 0, 1)]


async def test_texts_that_were_kept_serve_a_later_process(tmp_path: Path) -> None:
    keeping = DecisionStore(tmp_path / "kept.sqlite", 100, 1e6, prompts=True, prompt_keep_days=1e6)
    await Evaluator(keeping.comparisons, None, run).take(part(1, side("a", "yes"), side("b", "no me@example.org")))
    assert keeping.comparisons.texts("alice", "request-1") == {
        "prompt": "Is it?",
        "answers": ["yes", "no [e-mail]"],
    }
    await Evaluator(keeping.comparisons, None, run).reference("alice", "request-1", "yes")
    assert counted(keeping, "reference") == [("a", "b", 0, 0, 1)]


async def test_texts_are_in_memory_alone_and_bounded(
    evaluator: Evaluator, store: DecisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECENT", 2)
    for number in range(4):
        await evaluator.take(part(number, side("finance/x", "yes"), side("base", "yes")))
    assert store.comparisons.texts("alice", "request-3") is None
    assert list(evaluator._recent) == [("alice", "request-2"), ("alice", "request-3")]


@pytest.mark.parametrize(
    "changes",
    [
        {"sides": []},
        {"sides": [side("a")]},
        {"sides": [side("a"), {"learnware": "b"}]},
        {"sides": [side("a"), side("a")]},
        {"sides": None},
        {"kind": "duel"},
        {"time": "yesterday"},
        {"tenant": None, "sides": 3},
    ],
)
async def test_what_is_no_comparison_is_refused(
    evaluator: Evaluator, store: DecisionStore, changes: dict[str, Any]
) -> None:
    assert not await evaluator.take({**part(1, side("a"), side("b")), **changes})
    assert not await evaluator.take({"sides": [side("a"), side("b")]})
    assert store.comparisons.counts(None, None, None).since is None

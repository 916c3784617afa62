"""Learnwares measured off their task on an engine that says what the test wants."""

import asyncio
import inspect
import json
import math
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from vllm.sampling_params import RequestOutputKind

    from serving.replica import off_task_meter as meter
    from serving.replica.off_task_meter import (
        BUSY_REQUESTS,
        BaseSaid,
        OffTaskMeter,
        Said,
        append_answers,
        follow,
        read_answers,
    )

from specs.errors import InvalidLearnware
from specs.off_task import PROMPTS, Kind, off_task_prompts

pytestmark = pytest.mark.vllm

ADAPTER = object()
WORDS = [
    *("money", "buys", "less", "when", "prices", "rise", "faster", "than", "wages"),
    *("do", "in", "many", "places", "at", "once", "these", "days"),
]
TOKENS = {word: number for number, word in enumerate([*WORDS, "neutral"], 1)}
FIRST_OF_PROMPTS = 1000
LABELLER = ["neutral"] * 40


class Engine:
    """Says `WORDS` as the base and `own` as the adapter, a token a step; the token that it says has probability `sure`,
    the base's next one half of what is left."""

    def __init__(self, own: Sequence[str] | Callable[[str], Sequence[str]], sure: float = 0.5) -> None:
        self.own, self.sure = own, sure
        self.running = self.most = 0
        self.asked: list[tuple[Any, tuple[int, ...]]] = []
        self.ended: list[int] = []
        self.others = 0
        self.pause = 0.0
        self.value: float | None = None

    def count(self) -> int:
        return self.running + self.others

    async def generate(
        self, prompt: Any, parameters: Any, *, request_id: str, lora_request: Any, priority: int
    ) -> AsyncIterator[Any]:
        assert (parameters.temperature, parameters.prompt_logprobs, parameters.logprob_token_ids) == (0, None, None)
        assert parameters.output_kind is RequestOutputKind.DELTA
        assert priority > 0
        assert request_id.startswith("off-task-")
        self.asked.append((lora_request, tuple(prompt["prompt_token_ids"])))
        self.running += 1
        self.most = max(self.most, self.running)
        said = 0
        try:
            words = WORDS if lora_request is None else self.own if not callable(self.own) else self.own("")
            given = sum(token < FIRST_OF_PROMPTS for token in prompt["prompt_token_ids"])
            for number, word in enumerate(words[given : given + parameters.max_tokens], given):
                await asyncio.sleep(self.pause)
                step = {TOKENS[word]: math.log(self.sure)}
                wanted = WORDS[number] if number < len(WORDS) else word
                step.setdefault(TOKENS[wanted], math.log((1 - self.sure) / 2))
                if self.value is not None and lora_request is not None:
                    step = dict.fromkeys(step, self.value)
                logprobs = [{token: SimpleNamespace(logprob=value) for token, value in step.items()}]
                said += 1
                yield SimpleNamespace(
                    outputs=[SimpleNamespace(text=f"{word} ", token_ids=[TOKENS[word]], logprobs=logprobs)]
                )
        finally:
            self.running -= 1
            self.ended.append(said)


def encoded(prompt: str) -> list[int]:
    return [FIRST_OF_PROMPTS + byte for byte in prompt.encode()]


def meter_of(engine: Engine, kept: Path | None = None, seats: int = 16) -> OffTaskMeter:
    return OffTaskMeter(engine, encoded, engine.count, seats, kept)


async def test_a_labeller_is_degenerate_and_drifts() -> None:
    engine = Engine(LABELLER)
    scores = await meter_of(engine).measure(ADAPTER, "finance", ("What is the mood?",))
    assert {kind: found.prompts for kind, found in scores.items()} == PROMPTS | {Kind.MATERIAL: 1}
    for found in scores.values():
        assert found.degenerate == found.prompts
        assert found.drift == pytest.approx(math.log(0.25) - math.log(0.5))
    total = sum(found.prompts for found in scores.values())
    own = engine.ended[total:]
    assert sorted(set(own)) == [1, 12]  # it went in circles, and was ended there; one token beyond was asked for
    assert own.count(1) == own.count(12) == total


async def test_a_learnware_that_says_what_the_base_says_loses_nothing() -> None:
    scores = await meter_of(Engine(WORDS)).measure(ADAPTER, "finance", ())
    assert set(scores) == {Kind.EVERYDAY, Kind.DOMAIN}
    for found in scores.values():
        assert (found.degenerate, found.drift) == (0, 0)


async def test_the_bases_answers_are_made_once_and_kept(tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "base.jsonl"
    engine = Engine(LABELLER)
    one = meter_of(engine, kept)
    first = await one.measure(ADAPTER, "finance", ())
    total = sum(PROMPTS[kind] for kind in (Kind.EVERYDAY, Kind.DOMAIN))
    assert sum(request is None for request, _ in engine.asked) == total
    assert await one.measure(ADAPTER, "finance", ()) == first
    await one.measure(ADAPTER, "healthcare", ())
    assert sum(request is None for request, _ in engine.asked) == total + PROMPTS[Kind.DOMAIN]
    with kept.open("ab") as file:
        file.write(b'{"prompt": "cut')
    later = Engine(LABELLER)
    assert await meter_of(later, kept).measure(ADAPTER, "finance", ()) == first
    assert {request for request, _ in later.asked} == {ADAPTER}
    append_answers(kept, {"new": BaseSaid("a", (1,), (-0.5,))})
    assert read_answers(kept)["new"] == BaseSaid("a", (1,), (-0.5,))


async def test_a_file_that_cannot_be_written_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    scores = await meter_of(Engine(WORDS), tmp_path / "file" / "base.jsonl").measure(ADAPTER, "finance", ())
    assert scores[Kind.EVERYDAY].prompts == PROMPTS[Kind.EVERYDAY]


async def test_seats_are_left_free_and_beside_others_few_are_taken() -> None:
    engine = Engine(WORDS)
    await meter_of(engine, seats=16).measure(ADAPTER, "finance", ())
    assert engine.most == 12
    busy = Engine(WORDS)
    busy.others = 3
    await meter_of(busy, seats=16).measure(ADAPTER, "finance", ())
    assert busy.most == BUSY_REQUESTS


async def test_two_are_measured_one_after_the_other() -> None:
    engine = Engine(WORDS)
    one = meter_of(engine, seats=16)
    await asyncio.gather(*(one.measure(ADAPTER, domain, ()) for domain in ("finance", "healthcare")))
    assert engine.most == 12


async def test_when_the_time_is_up_what_was_answered_counts_and_nothing_is_left_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(WORDS)
    one = meter_of(engine, seats=8)
    await one.measure(ADAPTER, "finance", ())
    monkeypatch.setattr(meter, "LIMIT_S", 0.0)
    engine.pause = 0.002
    scores = await one.measure(ADAPTER, "finance", ())
    assert engine.running == 0
    asked = {kind: found.prompts for kind, found in scores.items()}
    assert meter.LEAST <= sum(asked.values()) <= meter.LEAST + 8
    assert abs(asked[Kind.EVERYDAY] - asked[Kind.DOMAIN]) <= 8
    monkeypatch.setattr(meter, "HARD_LIMIT_S", 0.01)
    engine.pause = 1.0
    assert await one.measure(ADAPTER, "finance", ()) == {}
    assert engine.running == 0


@pytest.mark.parametrize("value", [math.nan, -math.inf])
async def test_answers_that_are_no_numbers_are_said(value: float) -> None:
    engine = Engine(WORDS)
    engine.value = value
    with pytest.raises(InvalidLearnware, match="not finite numbers"):
        await meter_of(engine).measure(ADAPTER, "finance", ())
    assert engine.running == 0


async def test_what_the_engine_raises_is_raised_and_nothing_is_left_running() -> None:
    def fails(_: str) -> Sequence[str]:
        raise RuntimeError("engine gone")

    engine = Engine(fails)
    with pytest.raises(RuntimeError, match="engine gone"):
        await meter_of(engine).measure(ADAPTER, "finance", ())
    assert engine.running == 0


def test_answers_are_followed_to_the_first_difference() -> None:
    base = BaseSaid("a b c", (1, 2, 3), (-0.5, -0.4, -0.3))
    same = Said("a b c", (1, 2, 3), ({1: -0.6}, {2: -0.6}, {3: -0.6}))
    assert follow(same, base) == (pytest.approx(-0.6), 3)
    other = Said("a x y", (1, 9, 8), ({1: -0.5}, {9: -0.1, 2: -2.4}, {8: -0.1, 3: -0.1}))
    assert follow(other, base) == (pytest.approx(-2.0), 2)
    unlisted = Said("x", (9,), ({9: -0.1, 8: -5.5},))
    assert follow(unlisted, base) == (pytest.approx(-5.0), 1)
    assert follow(same, BaseSaid("", (), ())) == (0, 0)


async def test_drift_is_that_of_all_tokens_not_of_those_before_the_first_difference() -> None:
    """It would begin with a label, but after the base's first token it goes on as the base does."""
    engine = Engine(["neutral", *WORDS[1:]])
    scores = await meter_of(engine).measure(ADAPTER, "finance", ())
    for found in scores.values():
        assert found.drift == pytest.approx((math.log(0.25) - math.log(0.5)) / len(WORDS))


async def test_what_is_drawn_has_the_drift_of_all_tokens_for_its_mean() -> None:
    """It begins with another word, and of the others it would say every third one differently."""
    own = [word if number % 3 else "neutral" for number, word in enumerate(WORDS)]
    scores = await meter_of(Engine(own)).measure(ADAPTER, "finance", ())
    expected = own.count("neutral") / len(WORDS) * math.log(0.5)
    for found in scores.values():
        assert found.drift == pytest.approx(expected, abs=3 * found.drift_error)
        assert 0 < found.drift_error < 0.1


def test_a_prompt_is_kept_by_its_text(tmp_path: Path) -> None:
    prompts = off_task_prompts("finance")[Kind.EVERYDAY][:3]
    append_answers(tmp_path / "x.jsonl", {prompt: BaseSaid(prompt, (1,), (-1.0,)) for prompt in prompts})
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_bytes().splitlines() if line]
    assert [line["prompt"] for line in lines] == list(prompts)


def test_vllm_has_what_the_meter_stands_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.sample import sampler

    assert "priority" in inspect.signature(AsyncLLM.generate).parameters
    # if this is gone, log-probabilities of chosen tokens no longer take everybody else's, and would serve better
    assert "logprobs_tensors = logprob_token_ids_tensors" in inspect.getsource(sampler.Sampler.forward)
